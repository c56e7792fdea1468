"""Along which axis a weight is split between devices."""

from collections.abc import Sequence


def split_axis(
    name: str,
    shape: Sequence[int],
    parts: int,
    kernel: tuple[Sequence[int], int | None] | None = None,
) -> int | None:
    """Returns the axis along which a weight of a layer is split, or `None` to keep it whole.

    Kernels are split by output channels, or by input channels where only those can be divided;
    those of attention by heads, the last of which is then split by its inputs; embeddings by
    vocabulary. A bias goes with its kernel. Everything else is whole on each device.

    Args:
        name: String, the path of the weight, such as `"dense/kernel"`.
        shape: Sequence of integers.
        parts: Integer, the number of devices.
        kernel: The shape of the kernel of the same layer and the axis it is split along, for a
            bias; `None` where there is none.

    Example:

    >>> split_axis("dense/kernel", (64, 128), 4)
    1
    >>> split_axis("dense/kernel", (64, 10), 4)
    0
    >>> split_axis("embedding/embeddings", (1000, 64), 4)
    0
    >>> split_axis("attention_output/kernel", (8, 16, 128), 4)
    0

    Reference:
        Shoeybi et al., "Megatron-LM", 2019, section 3 (columns, rows, heads and vocabulary).
    """
    layer, _, kind = name.rpartition("/")
    if kind == "bias":
        if kernel is None or kernel[1] is None:
            return None
        axis = kernel[1] - (len(kernel[0]) - len(shape))
        # The last axis of a transposed convolution's kernel is that of its inputs.
        fits = axis >= 0 and shape[axis] == kernel[0][kernel[1]]
        return axis if fits else None
    last = len(shape) - 1
    part = layer.rpartition("/")[2]
    if kind == "embeddings":
        order = [0, 1]
    elif kind == "kernel" and len(shape) == 3 and part in ("query", "key", "value"):
        order = [1]
    elif kind == "kernel" and len(shape) == 3 and part == "attention_output":
        order = [0]
    elif kind == "kernel" and len(shape) >= 2:
        order = [last, last - 1]
    elif kind in ("pointwise_kernel", "recurrent_kernel"):
        order = [last]
    else:
        return None
    return next((axis for axis in order if shape[axis] % parts == 0), None)
