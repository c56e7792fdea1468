"""A smaller model: channels leave, with all that belongs to them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.structured.choose import (
    choose_counted,
    choose_timed,
    chooser,
    require_sizes,
)
from keras_optkit.compression.structured.criteria import get_criterion
from keras_optkit.compression.structured.latency import LatencyChange
from keras_optkit.compression.structured.plan import Plan
from keras_optkit.compression.structured.rules import trace_channels
from keras_optkit.compression.structured.shrink import shrink
from keras_optkit.core.graph import graphs
from keras_optkit.core.messages import did_you_mean

# What the share that stays is of: the names of methods of `Plan`, or what is measured.
_COSTS = ("parameters", "flops", "channels", "latency")


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
        latency: A `LatencyChange` with `of="latency"`, else `None`.
    """

    parameters: tuple[int, int]
    flops: tuple[int, int]
    widths: dict[str, tuple[int, int]]
    stayed: dict[str, list[int]]
    whole: dict[str, str]
    latency: LatencyChange | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns it as dictionaries, lists and numbers."""
        return dataclasses.asdict(self)

    def __str__(self):
        lines = [_change("parameters", self.parameters)]
        if self.flops[0]:
            lines.append(_change("operations", self.flops))
        if self.latency is not None:
            timed = self.latency
            lines.append(
                f"{timed.before_ms:.4g} -> {timed.after_ms:.4g} ms on LiteRT ({timed.ratio:.1%} "
                f"stay, give or take {timed.noise:.2%}; {timed.runs} runs each, in turn)"
            )
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
    example: Any = None,
    seed: int | None = None,
    return_report: bool = False,
) -> keras.Model | tuple[keras.Model, ChannelReport]:
    """Returns a smaller model: whole channels leave it, with all the weights that belong to them.

    Channels that are added to each other, concatenated, convolved one by one, normalized or
    flattened are followed through the graph, so that a channel leaves everywhere at once. What is
    left is an ordinary, smaller Keras model of the same layers with fewer channels. Where no
    operation mixes channels in an unknown way, that is exact: the smaller model computes what the
    old one would with the weights on these channels set to zero. A `ResidualBNBlock`, whose config
    has one width, becomes a model of plain layers under its name.

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
            additions of one prediction; `"channels"`, of those that may leave, where channels that
            are added to each other count once; or `"latency"`, what one sample takes on LiteRT on
            one thread of this machine. That is measured: up to six candidates are converted and
            timed in turn with the original, until one is within 5 % of the target, and the report
            has the times and their noise. A busy machine gives another model.
        allocation: `"uniform"`, each group of channels loses the same share, to one channel; or
            `"global"`, those leave that score least of all, but never more than 90 % of a group.
        multiple_of: Integer, what the number of channels that stay is a multiple of where a layer
            has that many. Hardware likes 8.
        keep: Names of layers, or layers, whose own channels stay.
        data: For `"taylor"`: a dataset of batches (inputs, targets), or a tuple of the two arrays.
        example: For `"flops"` and `"latency"` where the size of the inputs is not known, and for
            `"latency"` to run on in the place of random numbers: an array of one sample or more,
            batch first; with several inputs a list, or a dictionary by their names.
        seed: Integer or `None`, for `"random"`.
        return_report: Boolean, whether a `ChannelReport` is returned too. Defaults to `False`.

    Returns:
        The new `keras.Model`, not compiled; with `return_report=True` a tuple of it and the
        `ChannelReport`.

    Raises:
        ValueError: If the model is not built or is subclassed, no channel may leave, an argument
            is out of its range, the size of an input is not known and is needed, the model cannot
            be converted, or the target is below what can be reached; the message says what can.

    Example:

    ```python
    small, report = prune_channels(model, target=0.5, of="flops", return_report=True)
    small.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    small.fit(x, y, epochs=5)
    ```

    Reference:
        Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, for groups of channels.
    """
    graphs(model)  # What cannot be followed at all is told first.
    _check_arguments(target, of, allocation, multiple_of, seed)
    names = layer_names(keep, model)
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    arrays = _example(example, model)
    if arrays is not None:
        shapes = [(None, *array.shape[1:]) for array in arrays.values()]
    if of in ("flops", "latency"):
        require_sizes(model, shapes, of)
    trace = trace_channels(model, names, None if arrays is None else shapes)
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
    without = chooser(plan, scores, allocation, multiple_of)
    latency = None
    if of == "latency":
        gone, latency = choose_timed(plan, without, target, arrays)
    else:
        gone = choose_counted(plan, without, scores, target, of)
    new = shrink(trace, gone)
    return (new, _report(plan, gone, latency)) if return_report else new


def _check_arguments(target: Any, of: Any, allocation: Any, multiple_of: Any, seed: Any) -> None:
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
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise ValueError(
            f"`seed` must be None or an integer of at least 0. Received: seed={seed!r}"
        )


def layer_names(keep: Sequence[str | keras.layers.Layer], model: keras.Model) -> list[str]:
    """Returns the names of layers that were given by name or as they are."""
    known = [layer.name for layer in model._flatten_layers(include_self=False)]
    items = [keep] if isinstance(keep, (str, keras.layers.Layer)) else keep
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise ValueError(
            f"`keep` must be a list of layers or of their names. Received: keep={keep!r}"
        )
    names = [item.name if isinstance(item, keras.layers.Layer) else item for item in items]
    for name in names:
        if name not in known:
            raise ValueError(
                f"`keep` must name layers of the model. {did_you_mean(str(name), known)} "
                f"Received: keep={keep!r}"
            )
    return names


def _example(example: Any, model: keras.Model) -> dict[str, np.ndarray] | None:
    if example is None:
        return None
    from keras_optkit.compression.export.signature import bind, input_specs

    return bind(example, input_specs(model), "example")


def _report(plan: Plan, gone: np.ndarray, latency: LatencyChange | None) -> ChannelReport:
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
        latency=latency,
    )


def _change(what: str, pair: tuple[int, int]) -> str:
    before, after = pair
    return f"{before:,} -> {after:,} {what} ({after / before:.1%} stay)"
