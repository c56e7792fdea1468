"""A smaller model: channels leave, with all that belongs to them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.structured.criteria import get_criterion
from keras_optkit.compression.structured.plan import Plan, choose_global, choose_uniform
from keras_optkit.compression.structured.rules import trace_channels
from keras_optkit.compression.structured.shrink import shrink
from keras_optkit.core.messages import did_you_mean

# Under a global choice, the share of each group that stays however little it scores. A layer
# without channels would cut the network in two.
_LEAST = 0.1
# What the share that stays is counted in, by the names of methods of `Plan`.
_COSTS = ("parameters", "flops", "channels")


@dataclasses.dataclass(frozen=True)
class ChannelReport:
    """What became of the channels of a model.

    Args:
        parameters: A pair, the parameters before and after.
        flops: A pair, the floating-point operations of one prediction before and after in the
            layers that have kernels; 0 where the size of the input is not known.
        widths: Dictionary from each layer that makes channels to their number before and after.
        stayed: Dictionary from each such layer to the numbers of the channels that are left.
        whole: Dictionary from each layer that could not be followed to the reason.
    """

    parameters: tuple[int, int]
    flops: tuple[int, int]
    widths: dict[str, tuple[int, int]]
    stayed: dict[str, list[int]]
    whole: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as dictionaries, lists and numbers."""
        return dataclasses.asdict(self)

    def __str__(self):
        lines = [_change("parameters", self.parameters)]
        if self.flops[0]:
            lines.append(_change("operations", self.flops))
        lines += [f"- {name}: {a} -> {b} channels" for name, (a, b) in self.widths.items()]
        lines += [f"- {name} is kept whole: {reason}" for name, reason in self.whole.items()]
        return "\n".join(lines)


def prune_channels(
    model: keras.Model,
    target: float,
    criterion: str | Callable[[np.ndarray], np.ndarray] = "l2",
    of: str = "parameters",
    allocation: str = "uniform",
    multiple_of: int = 1,
    keep: Sequence[str | keras.layers.Layer] = (),
    data: Any = None,
    seed: int | None = None,
    return_report: bool = False,
) -> keras.Model | tuple[keras.Model, ChannelReport]:
    """Returns a smaller model: whole channels leave it, with all the weights that belong to them.

    Channels that are added to each other, concatenated, convolved one by one, normalized or
    flattened are followed through the graph, so that a channel leaves everywhere at once. What is
    left is an ordinary, smaller Keras model of the same layers with fewer channels. Where no
    operation mixes channels in an unknown way, that is exact: the smaller model computes what the
    old one would with the weights on these channels set to zero.

    Outputs keep their channels. So does what cannot be followed; the report lists it with the
    reason. The accuracy drops, and is won back by training the new model for some epochs.

    Args:
        model: A built Sequential or Functional model, also with models nested in it. It is not
            changed, and need not be compiled, but for `criterion="taylor"`.
        target: Float in (0, 1), the share that stays.
        criterion: How a channel's importance is told from the weights that make it: `"l2"`,
            `"l1"`, `"gamma"` (the scale of the BatchNorm behind), `"taylor"` (gradients on `data`),
            `"random"`, or a function of an array of shape (channels, n) that returns one score for
            each channel. Channels that leave together have the mean of their scores.
        of: What `target` is a share of: `"parameters"`; `"flops"`, the multiplications and
            additions of one prediction, which take an input of known size; or `"channels"`, of
            those that may leave, where channels that are added to each other count once.
        allocation: `"uniform"`, each group of channels loses the same share, or `"global"`, those
            leave that score least of all, but never more than 90 % of a group.
        multiple_of: Integer, what the number of channels that stay is a multiple of where a layer
            has that many. Hardware likes 8.
        keep: Names of layers, or layers, whose own channels stay.
        data: For `"taylor"`: a dataset of batches (inputs, targets), or a tuple of the two arrays.
        seed: Integer or `None`, for `"random"`.
        return_report: Boolean, whether a `ChannelReport` is returned too. Defaults to `False`.

    Returns:
        The new `keras.Model`, not compiled; with `return_report=True` a tuple of it and the
        `ChannelReport`.

    Raises:
        ValueError: If the model is not built or is subclassed, no channel may leave, an argument
            is out of its range, or the target is below what can be reached; the message says what
            can.

    Example:

    ```python
    small, report = prune_channels(model, target=0.5, of="flops", return_report=True)
    small.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    small.fit(x, y, epochs=5)
    ```

    Reference:
        Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, for groups of channels.
    """
    _check_arguments(target, of, allocation, multiple_of)
    trace = trace_channels(model, _names(keep, model))
    plan = Plan(trace)
    if not plan.groups:
        reasons = "; ".join(f"{name}: {why}" for name, why in trace.whole.items())
        raise ValueError(
            "No channel of this model may leave: all of them are outputs, were asked to stay, or "
            f"are beside what cannot be followed ({reasons or 'nothing'}). "
            f"Received: model={model.name!r}"
        )
    weights = list(trace.weights.values())
    scores = plan.scores(get_criterion(criterion, model, data, weights, seed))
    gone = _choose(plan, scores, target, of, allocation, multiple_of)
    new = shrink(trace, gone)
    return (new, _report(plan, gone)) if return_report else new


def _check_arguments(target: Any, of: Any, allocation: Any, multiple_of: Any) -> None:
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target < 1:
        raise ValueError(
            "`target` is the share that stays and must be in (0, 1), 0.5 for half. "
            f"Received: target={target!r}"
        )
    for name, value, allowed in (
        ("of", of, _COSTS),
        ("allocation", allocation, ("uniform", "global")),
    ):
        if value not in allowed:
            raise ValueError(
                f"`{name}` must be one of {allowed}. {did_you_mean(str(value), allowed)} "
                f"Received: {name}={value!r}"
            )
    if isinstance(multiple_of, bool) or not isinstance(multiple_of, int) or multiple_of < 1:
        raise ValueError(
            f"`multiple_of` must be an integer of at least 1. Received: multiple_of={multiple_of!r}"
        )


def _names(keep: Sequence[str | keras.layers.Layer], model: keras.Model) -> list[str]:
    known = [layer.name for layer in model._flatten_layers(include_self=False)]
    items = [keep] if isinstance(keep, (str, keras.layers.Layer)) else keep
    names = [item.name if isinstance(item, keras.layers.Layer) else item for item in items]
    for name in names:
        if name not in known:
            raise ValueError(
                f"`keep` must name layers of the model. {did_you_mean(str(name), known)} "
                f"Received: keep={keep!r}"
            )
    return names


def _choose(
    plan: Plan, scores: np.ndarray, target: float, of: str, allocation: str, multiple_of: int
) -> np.ndarray:
    """Returns which sets of channels leave, as few as the target allows."""
    cost = getattr(plan, of)
    nothing = np.zeros(plan.size, "bool")
    whole = cost(nothing)
    if not whole:
        shapes = [tuple(tensor.shape) for tensor in plan.trace.model.inputs]
        raise ValueError(
            "The operations of a model can be counted only if the size of its inputs is known. "
            "Build it with `keras.Input(shape)` in full, or use `of='parameters'`. "
            f"Received: of={of!r}, inputs of shape {shapes}"
        )

    def without(share: float) -> np.ndarray:
        if allocation == "uniform":
            chosen = choose_uniform(plan.groups, scores, share, multiple_of)
        else:
            chosen = choose_global(plan.groups, scores, share, multiple_of, _LEAST)
        gone = nothing.copy()
        gone[np.concatenate(chosen)] = True
        return gone

    least = cost(without(1.0))
    if least > target * whole:
        raise ValueError(
            f"`target` is below what can be reached: {math.ceil(1000 * least / whole) / 1000:g} of "
            f"the {of} stay when all channels leave that may. Received: target={target!r}"
        )
    # The cost falls as the share grows; the lowest share that reaches the target is looked for.
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(without(middle)) <= target * whole else (middle, high)
    return without(high)


def _report(plan: Plan, gone: np.ndarray) -> ChannelReport:
    nothing = np.zeros_like(gone)
    stayed, widths = {}, {}
    for name, roots in plan.made().items():
        left = np.flatnonzero(~gone[roots])
        widths[name] = (len(roots), len(left))
        stayed[name] = left.tolist()
    return ChannelReport(
        parameters=(plan.parameters(nothing), plan.parameters(gone)),
        flops=(plan.flops(nothing), plan.flops(gone)),
        widths=widths,
        stayed=stayed,
        whole=dict(plan.trace.whole),
    )


def _change(what: str, pair: tuple[int, int]) -> str:
    before, after = pair
    return f"{before:,} -> {after:,} {what} ({after / before:.1%} stay)"
