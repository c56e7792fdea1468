"""Channels that leave together as groups of numbers, and a pull that brings groups to zero."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.structured.plan import Plan


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A variable of which parts belong to groups.

    Args:
        variable: The variable.
        axis: Integer, the axis along which the parts lie.
        groups: Integer array, the group of each part along the axis, or the number of groups for
            one that is in none.
    """

    variable: keras.Variable
    axis: int
    groups: np.ndarray


def members(plan: Plan) -> tuple[list[Member], np.ndarray]:
    """Returns what has to be zero for channels to be zero, for all channels that may leave.

    Where all that a kernel makes goes through BatchNorms, these are their scales and shifts, else
    the kernel and its bias. What is frozen is left out.

    Args:
        plan: The plan of the model.

    Returns:
        A tuple: the members, and an integer array of how many norms or kernels make each group.
    """
    roots = np.concatenate([group.roots for group in plan.groups])
    count = len(roots)
    number = np.full(plan.size, count)
    number[roots] = np.arange(count)
    found: dict[int, Member] = {}
    makers = np.zeros(count + 1, "int64")
    for weight in plan.trace.weights.values():
        if weight.makes is None:
            continue
        groups = number[plan.trace.channels.roots(weight.labels[weight.makes])]
        for parts in _makers(weight):
            new = [(v, axis) for v, axis in parts if v is not None and id(v) not in found]
            new = [(v, axis) for v, axis in new if v.trainable]
            found.update({id(v): Member(v, axis, groups) for v, axis in new})
            if new:
                np.add.at(makers, groups, 1)
    kept = [m for m in found.values() if (m.groups < count).any()]
    return kept, makers[:count]


def _makers(weight) -> list[list[tuple[keras.Variable | None, int]]]:
    kernel = [(weight.variable, weight.makes), (weight.bias, 0)]
    if not weight.norms:
        return [kernel]
    return [
        [(norm.gamma, 0), (norm.beta, 0)] if norm.gamma is not None else [*kernel, (norm.beta, 0)]
        for norm in weight.norms
    ]


def group_norms(
    values: Sequence[Any], axes: Sequence[int], groups: Sequence[Any], count: int
) -> Any:
    """Returns the L2 norm of each group.

    Args:
        values: Tensors.
        axes: For each of them the axis along which its parts lie.
        groups: For each of them an integer array or tensor, the group of each part, `count` for
            none.
        count: Integer, the number of groups.

    Returns:
        A float32 tensor of shape (count + 1,), of which the last is that of parts in no group.
    """
    squares = []
    for value, axis in zip(values, axes, strict=True):
        others = [i for i in range(len(value.shape)) if i != axis]
        square = ops.square(ops.cast(value, "float32"))
        squares.append(ops.sum(square, axis=others) if others else square)
    sums = ops.segment_sum(ops.concatenate(squares), ops.concatenate(groups), count + 1)
    return ops.sqrt(sums)


def pulled(
    values: Sequence[Any], axes: Sequence[int], groups: Sequence[Any], pull: Any
) -> list[Any]:
    """Returns tensors in which the norm of each group is shorter by a pull, or zero.

    It is the proximal step of the group lasso: `w * max(0, 1 - pull / norm(w))` for each group.

    Args:
        values: Tensors.
        axes: See `group_norms`.
        groups: See `group_norms`.
        pull: A float32 tensor of shape (count,), not negative.

    Reference:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    """
    count = pull.shape[0]
    norms = group_norms(values, axes, groups, count)[:count]
    left = ops.maximum(1.0 - pull / ops.maximum(norms, 1e-30), 0.0)
    left = ops.concatenate([left, ops.ones((1,))])
    results = []
    for value, axis, group in zip(values, axes, groups, strict=True):
        shape = [-1 if i == axis else 1 for i in range(len(value.shape))]
        factor = ops.cast(ops.reshape(ops.take(left, group), shape), value.dtype)
        results.append(value * factor)
    return results
