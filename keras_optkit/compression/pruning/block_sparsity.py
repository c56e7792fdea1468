"""Blocks of weights that stay or go as a whole."""

import math

import numpy as np
from keras import ops

from keras_optkit.compression.pruning.structures import Structure, is_count
from keras_optkit.core.serialization import register_sparsity


@register_sparsity
class BlockSparsity(Structure):
    """Prunes whole blocks of a kernel.

    The blocks tile the last two axes of a kernel (the inputs and the outputs of a dense layer or a
    convolution, at each place of the filter), beginning at the first element. Where a side is no
    multiple of the block's, the last blocks are smaller and count by their own weights.

    Args:
        block_size: Tuple of two integers >= 1, the height and width of a block.
        pooling: `"avg"` or `"max"`, how the scores of a block's weights make that of the block.

    Raises:
        ValueError: If an argument is not as above; before the first step, if a block is larger
            than a kernel.

    Example:

    >>> BlockSparsity((2, 2)).spread(np.array([[True, False]]), (2, 3)).shape == (2, 3)
    True

    Reference:
        Narang, Undersander and Diamos, "Block-Sparse Recurrent Neural Networks", 2017. TF-MOT's
        masks are the same where the block divides the kernel; elsewhere its blocks are pooled from
        other places than those that they mask.
    """

    def __init__(self, block_size: tuple[int, int], pooling: str = "avg"):
        try:
            height, width = block_size
        except (TypeError, ValueError):
            height = width = None
        if not all(is_count(side) for side in (height, width)):
            raise ValueError(
                "`block_size` must be a tuple of two integers >= 1, the height and the width. "
                f"Received: block_size={block_size!r}"
            )
        if pooling not in ("avg", "max"):
            raise ValueError(f'`pooling` must be "avg" or "max". Received: pooling={pooling!r}')
        self.block_size = (int(height), int(width))
        self.pooling = pooling

    def check(self, path, shape):
        if len(shape) < 2 or any(
            side > length for side, length in zip(self.block_size, shape[-2:], strict=True)
        ):
            raise ValueError(
                f"A block of {self.block_size} is larger than the kernel '{path}', whose last two "
                "axes it must fit into. Leave the kernel out with `select`, or take smaller "
                f"blocks. Received: block_size={self.block_size}, shape={tuple(shape)}"
            )

    def pool(self, scores):
        (height, width), (rows, columns) = self.block_size, scores.shape[-2:]
        missing = [-rows % height, -columns % width]
        if any(missing):
            padding = [(0, 0)] * (len(scores.shape) - 2) + [(0, n) for n in missing]
            fill = 0.0 if self.pooling == "avg" else -math.inf
            scores = ops.pad(scores, padding, constant_values=fill)
        *lead, padded_rows, padded_columns = scores.shape
        tiles = (*lead, padded_rows // height, height, padded_columns // width, width)
        blocks = ops.reshape(scores, tiles)
        if self.pooling == "max":
            return ops.max(blocks, axis=(-3, -1))
        real = np.outer(_sizes(rows, height), _sizes(columns, width)).astype("float32")
        return ops.sum(blocks, axis=(-3, -1)) / ops.convert_to_tensor(real, dtype=blocks.dtype)

    def spread(self, mask, shape):
        for axis, side in zip((-2, -1), self.block_size, strict=True):
            mask = ops.repeat(mask, side, axis=axis)
        return mask[..., : shape[-2], : shape[-1]]

    def get_config(self):
        return {"block_size": self.block_size, "pooling": self.pooling}


def _sizes(length: int, side: int) -> list[int]:
    return [min(side, length - start) for start in range(0, length, side)]
