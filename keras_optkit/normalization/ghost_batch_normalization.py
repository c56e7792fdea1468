"""BatchNorm with statistics of virtual batches."""

from typing import Any

import keras
from keras import ops

from keras_optkit.core.serialization import register
from keras_optkit.normalization.moments import grouped_moments


@register
class GhostBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm that normalizes each virtual batch by its own statistics.

    A large batch is split, in order, into virtual ("ghost") batches, which keeps the regularizing
    noise of small batches. In inference it is `keras.layers.BatchNormalization`.

    A batch of `B` samples is split into `ceil(B / virtual_batch_size)` virtual batches whose sizes
    differ by at most one. So the rest of a batch that `virtual_batch_size` does not divide is
    spread over all of them: 70 samples in virtual batches of 32 are 24, 23 and 23, where a virtual
    batch of 6 would be too few for statistics. The moving statistics take one step of `momentum`
    per batch, towards the average of the virtual batches' means and variances, weighted by their
    sizes.

    Under a `tf.distribute` strategy each replica splits its own part of the batch, and the moving
    statistics are the average over the replicas.

    Args:
        virtual_batch_size: Integer >= 1, the number of samples that share statistics.
        axis: Integer, the axis of the channels. Defaults to -1.
        momentum: Float in [0, 1), how slowly the moving statistics follow. Defaults to 0.99.
        epsilon: Float > 0, added to the variance. Defaults to 0.001, as in Keras.
        **kwargs: Further arguments of `keras.layers.BatchNormalization` except `renorm` and
            `synchronized`.

    Returns:
        A tensor of the shape of the input and of the compute dtype.

    Raises:
        ValueError: If an argument is out of its range or not one of those.

    Example:

    >>> layer = GhostBatchNormalization(2)
    >>> outputs = layer(np.array([[1.0], [3.0], [10.0], [30.0]]), training=True)
    >>> keras.ops.convert_to_numpy(outputs).round(1)
    array([[-1.],
           [ 1.],
           [-1.],
           [ 1.]], dtype=float32)

    Reference:
        Hoffer, Hubara and Soudry, "Train longer, generalize better: closing the generalization gap
        in large batch training of neural networks", 2017, algorithm 1. There the moving statistics
        take one step for each virtual batch; here one for each batch, so that `momentum` means what
        it means in Keras.
    """

    def __init__(
        self,
        virtual_batch_size: int,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 0.001,
        **kwargs,
    ):
        if (
            isinstance(virtual_batch_size, bool)
            or not isinstance(virtual_batch_size, int)
            or virtual_batch_size < 1
        ):
            raise ValueError(
                "`virtual_batch_size` must be an integer >= 1. "
                f"Received: virtual_batch_size={virtual_batch_size!r}"
            )
        for name in ("renorm", "synchronized"):
            if kwargs.get(name):
                raise ValueError(
                    f"`{name}` takes statistics over more than a batch, and virtual batches over "
                    f"less. Leave one of them out. Received: {name}={kwargs[name]!r}"
                )
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)
        self.virtual_batch_size = virtual_batch_size

    def add_weight(self, *args, name: str | None = None, **kwargs) -> keras.Variable:
        """Adds a weight; replicas agree on the moving statistics."""
        if name in ("moving_mean", "moving_variance"):
            kwargs["aggregation"] = "mean"
        return super().add_weight(*args, name=name, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalizes by virtual batches in training, by the moving statistics otherwise."""
        if not (training and self.trainable):
            return super().call(inputs, training=False, mask=mask)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        samples = ops.shape(x)[0]
        num_groups = -(-samples // self.virtual_batch_size)
        groups = ops.arange(samples, dtype="int32") * num_groups // ops.maximum(samples, 1)
        means, variances, counts = grouped_moments(x, self.axis, groups, num_groups, mask)
        self._move(means, variances, counts)

        shape = [1] * len(x.shape)
        shape[self.axis] = x.shape[self.axis]
        scale = ops.rsqrt(variances + self.epsilon)
        if self.gamma is not None:
            scale = scale * ops.cast(self.gamma, x.dtype)
        shape[0] = -1
        mean, scale = (ops.reshape(ops.take(m, groups, axis=0), shape) for m in (means, scale))
        outputs = (x - mean) * scale
        if self.beta is not None:
            shape[0] = 1
            outputs = outputs + ops.reshape(ops.cast(self.beta, x.dtype), shape)
        return ops.cast(outputs, self.compute_dtype)

    def _move(self, means, variances, counts) -> None:
        """Moves the moving statistics towards the average over the virtual batches."""
        shares = counts / ops.maximum(ops.sum(counts, 0), 1)
        for moving, values in ((self.moving_mean, means), (self.moving_variance, variances)):
            average = ops.sum(shares * values, 0)
            moving.assign(moving * self.momentum + average * (1 - self.momentum))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        for name in ("renorm", "renorm_clipping", "renorm_momentum", "synchronized"):
            config.pop(name, None)
        return {**config, "virtual_batch_size": self.virtual_batch_size}
