"""How sparse a model is, kernel by kernel."""

import dataclasses
import io
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.pruning.nm_sparsity import NMSparsity, input_axis
from keras_optkit.compression.pruning.select import owners


def sparsity(
    model: keras.Model, structure: NMSparsity | None = None, all_weights: bool = False
) -> "SparsityTable":
    """Counts the zeros of a model.

    Args:
        model: A built model.
        structure: The pattern that each kernel is checked for. Defaults to `NMSparsity(2, 4)`.
        all_weights: Boolean, whether to list biases and other weights of rank 1 too.

    Returns:
        A `SparsityTable`, which prints as a table and has `rows`, `sparsity` and `to_dict()`.

    Raises:
        ValueError: If the model is not built.

    Example:

    >>> sparsity(model).sparsity
    0.0
    """
    if not model.built:
        raise ValueError(
            "The model has no weights yet. Call `model.build(input_shape)`, or call the model once "
            f"on a batch. Received: model={model.name!r}, which is not built"
        )
    structure = structure or NMSparsity(2, 4)
    found = owners(model, trainable_only=False).values()
    rows = [
        _row(layer, variable, structure)
        for layer, variable in found
        if all_weights or len(variable.shape) > 1
    ]
    return SparsityTable(rows, structure)


@dataclasses.dataclass(frozen=True)
class KernelSparsity:
    """The zeros of one kernel.

    Args:
        path: String, the path of the variable.
        shape: Tuple of integers.
        nonzero: Integer, how many weights are not zero; -0.0 is zero.
        pattern: Boolean, whether N of M holds along the input axis.
        underflows: Integer, how many weights are not zero and become so where the layer computes
            in half precision.
    """

    path: str
    shape: tuple[int, ...]
    nonzero: int
    pattern: bool
    underflows: int

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return 1 - self.nonzero / self.size


class SparsityTable:
    """The zeros of the kernels of a model, made by `sparsity(model)`.

    Args:
        rows: List of `KernelSparsity`.
        structure: The `NMSparsity` that the kernels were checked for.
    """

    def __init__(self, rows: list[KernelSparsity], structure: NMSparsity):
        self.rows = rows
        self.structure = structure

    @property
    def sparsity(self) -> float:
        """The share of zeros among all listed weights."""
        size = sum(row.size for row in self.rows)
        return 1 - sum(row.nonzero for row in self.rows) / size if size else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the table as JSON would hold it."""
        pattern = f"{self.structure.n}:{self.structure.m}"
        return {
            "sparsity": self.sparsity,
            "kernels": {
                row.path: {
                    "shape": list(row.shape),
                    "nonzero": row.nonzero,
                    "sparsity": row.sparsity,
                    pattern: row.pattern,
                    "underflows": row.underflows,
                }
                for row in self.rows
            },
        }

    def __str__(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, show_footer=True)
        size, nonzero = (sum(getattr(row, name) for row in self.rows) for name in _SUMS)
        columns = {
            "kernel": ("left", "together"),
            "shape": ("left", ""),
            "non-zero": ("right", f"{nonzero:,} of {size:,}"),
            "zeros": ("right", f"{self.sparsity:.2%}"),
            f"{self.structure.n}:{self.structure.m}": ("left", ""),
        }
        for name, (justify, footer) in columns.items():
            table.add_column(name, footer, justify=justify, overflow="fold")
        for row in self.rows:
            held = "yes" if row.pattern else "no"
            shape = " x ".join(map(str, row.shape))
            table.add_row(row.path, shape, f"{row.nonzero:,}", f"{row.sparsity:.2%}", held)
        lost = sum(row.underflows for row in self.rows)
        if lost:
            table.caption = (
                f"{lost:,} weights count as non-zero and underflow to zero in the half precision "
                "that their layers compute in."
            )
        text = io.StringIO()
        Console(file=text, width=100, no_color=True).print(table)
        return text.getvalue().rstrip()

    __repr__ = __str__


_SUMS = ("size", "nonzero")


def _row(
    layer: keras.layers.Layer, variable: keras.Variable, structure: NMSparsity
) -> KernelSparsity:
    weights = np.asarray(ops.convert_to_numpy(ops.cast(variable.value, "float32")))
    groups = structure.groups((weights != 0).astype("int32"), input_axis(layer, variable), 0)
    pattern = bool(ops.convert_to_numpy(ops.max(ops.sum(groups, axis=-1))) <= structure.n)
    underflows = 0
    if layer.compute_dtype == "float16":
        with np.errstate(over="ignore"):
            half = weights.astype("float16")
        underflows = np.count_nonzero((weights != 0) & (half == 0))
    return KernelSparsity(
        variable.path, tuple(weights.shape), int(np.count_nonzero(weights)), pattern, underflows
    )
