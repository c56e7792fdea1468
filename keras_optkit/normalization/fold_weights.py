"""A per-channel scale and shift, moved into the weights of the linear layer before or behind it."""

import dataclasses

import numpy as np


def norm_affine(
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a BatchNorm does in inference, as `scale * x + shift`.

    Args:
        gamma: Array `(channels,)`, or `None` for ones.
        beta: Array `(channels,)`, or `None` for zeros.
        mean: Array `(channels,)`, the moving mean.
        variance: Array `(channels,)`, the moving variance.
        epsilon: Float, what is added to the variance.

    Returns:
        A tuple `(scale, shift)` of float64 arrays `(channels,)`.

    Example:

    >>> norm_affine(None, None, np.array([2.0]), np.array([3.0]), 1.0)
    (array([0.5]), array([-1.]))
    """
    scale = 1.0 / np.sqrt(np.asarray(variance, "float64") + epsilon)
    if gamma is not None:
        scale = scale * np.asarray(gamma, "float64")
    shift = -np.asarray(mean, "float64") * scale
    return scale, shift if beta is None else shift + np.asarray(beta, "float64")


@dataclasses.dataclass
class LinearWeights:
    """The weights of a linear layer, in float64.

    Args:
        kind: `"dense"`, `"conv"`, `"depthwise"`, `"separable"` or `"transposed"`.
        kernels: List of arrays in the layouts of Keras: one, or for `"separable"` the depthwise and
            the pointwise one.
        bias: Array of the output channels, or `None`.
        groups: Integer, the groups of a `"conv"`.
    """

    kind: str
    kernels: list[np.ndarray]
    bias: np.ndarray | None = None
    groups: int = 1

    def then(self, scale: np.ndarray, shift: np.ndarray) -> "LinearWeights":
        """Returns the weights of `scale * layer(x) + shift`, with both along the outputs."""
        *before, last = self.kernels
        if self.kind == "depthwise":
            last = last * scale.reshape(last.shape[-2:])
        elif self.kind == "transposed":
            last = last * scale[:, None]
        else:
            last = last * scale
        bias = shift if self.bias is None else self.bias * scale + shift
        return dataclasses.replace(self, kernels=[*before, last], bias=bias)

    def after(self, scale: np.ndarray, shift: np.ndarray) -> "LinearWeights":
        """Returns the weights of `layer(scale * x + shift)`, with both along the inputs.

        It is exact where every output sees the whole kernel, without padding, or where the shift is
        zero.
        """
        bias = self.bias
        if np.any(shift):
            response = self._response(shift)
            bias = response if bias is None else bias + response
        first, *behind = self.kernels
        if self.kind == "conv":
            grouped = self._by_group(first) * scale.reshape(self.groups, -1).T[:, :, None]
            first = grouped.reshape(first.shape)
        elif self.kind == "transposed":
            first = first * scale
        else:
            first = first * scale[:, None]
        return dataclasses.replace(self, kernels=[first, *behind], bias=bias)

    def _response(self, shift: np.ndarray) -> np.ndarray:
        """The outputs, without bias, for inputs that are the same everywhere."""
        first = self.kernels[0].sum(axis=tuple(range(self.kernels[0].ndim - 2)))
        if self.kind == "dense":
            return shift @ first
        if self.kind == "transposed":
            return first @ shift
        if self.kind == "conv":
            by_group = shift.reshape(self.groups, -1)
            return np.einsum("igo,gi->go", self._by_group(first), by_group).reshape(-1)
        response = (first * shift[:, None]).reshape(-1)
        if self.kind == "separable":
            pointwise = self.kernels[1]
            return response @ pointwise.reshape(pointwise.shape[-2:])
        return response

    def _by_group(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel with its outputs as groups and outputs of each group."""
        return kernel.reshape(*kernel.shape[:-1], self.groups, -1)
