"""Which channels leave for a model to cost a share of what it did."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.structured.latency import LatencyChange, LatencyMeter, search
from keras_optkit.compression.structured.plan import Plan, choose_global, choose_uniform
from keras_optkit.compression.structured.shrink import shrink

# Under a global choice, the share of each group that stays however little it scores. A layer
# without channels would cut the network in two.
_LEAST = 0.1


def chooser(
    plan: Plan, scores: np.ndarray, allocation: str, multiple_of: int
) -> Callable[[float], np.ndarray]:
    """Returns a function from the share of channels that leave to which of them these are.

    Args:
        plan: The plan of the model.
        scores: Array, how much each set of channels matters.
        allocation: `"uniform"` or `"global"`.
        multiple_of: Integer, what the number of channels that stay is a multiple of.
    """

    def without(share: float) -> np.ndarray:
        if allocation == "uniform":
            chosen = choose_uniform(plan.groups, scores, share, multiple_of)
        else:
            chosen = choose_global(plan.groups, scores, share, multiple_of, _LEAST)
        gone = np.zeros(plan.size, "bool")
        gone[np.concatenate(chosen)] = True
        return gone

    return without


def choose_counted(
    plan: Plan,
    without: Callable[[float], np.ndarray],
    scores: np.ndarray,
    target: float,
    of: str,
) -> np.ndarray:
    """Returns the fewest channels without which a count falls to a share of what it was.

    Args:
        plan: The plan of the model.
        without: What `chooser` returns.
        scores: Array, how much each set of channels matters.
        target: Float in (0, 1).
        of: The name of a method of `Plan` that counts.

    Raises:
        ValueError: If the count stays higher when all leave that may.
    """
    cost = getattr(plan, of)
    whole = cost(np.zeros(plan.size, "bool"))
    least = cost(without(1.0))
    # A share such as 1 - 0.55 is a hair below what was meant.
    limit = (target + 1e-9) * whole
    if least > limit:
        raise ValueError(
            f"`target` is below what can be reached: {math.ceil(1000 * least / whole) / 1000:g} of "
            f"the {of} stay when all channels leave that may. Received: target={target!r}"
        )
    low, high = _shares(without, lambda gone: cost(gone) <= limit)
    gone, most = without(low), without(high)
    # Groups of one size would all lose a channel at once here; those go first that matter least.
    steps = [roots[most[roots] & ~gone[roots]] for roots in (g.roots for g in plan.groups)]
    for step in sorted((s for s in steps if s.size), key=lambda s: scores[s].mean()):
        gone[step] = True
        if cost(gone) <= limit:
            break
    return gone


def choose_timed(
    plan: Plan,
    without: Callable[[float], np.ndarray],
    target: float,
    arrays: dict[str, np.ndarray] | None,
) -> tuple[np.ndarray, LatencyChange]:
    """Returns channels without which the model takes a share of the time on LiteRT, and the times.

    Args:
        plan: The plan of the model.
        without: What `chooser` returns.
        target: Float in (0, 1).
        arrays: See `LatencyMeter`.

    Raises:
        ValueError: If the model takes longer when all leave that may, or cannot be converted.
    """
    meter = LatencyMeter(plan.trace.model, arrays)
    changes: dict[bytes, Any] = {}

    def measure(share: float) -> LatencyChange:
        gone = without(share)
        if gone.tobytes() not in changes:
            changes[gone.tobytes()] = meter(shrink(plan.trace, gone))
        return changes[gone.tobytes()]

    # What is counted is a fair guess at what is timed.
    cost = plan.flops if plan.flops(np.zeros(plan.size, "bool")) else plan.parameters
    whole = cost(np.zeros(plan.size, "bool"))
    _, guess = _shares(without, lambda gone: cost(gone) <= target * whole)
    gone = without(search(measure, target, guess))
    return gone, changes[gone.tobytes()]


def require_sizes(model: keras.Model, shapes: list[tuple], of: str) -> None:
    """Raises a `ValueError` unless the sizes of all inputs are known."""
    if any(None in shape[1:] for shape in shapes):
        named = {tensor.name: tuple(tensor.shape) for tensor in model.inputs}
        raise ValueError(
            f"of={of!r} takes inputs of known size. Pass `example=`, a batch of one sample or more "
            "(several inputs: a list, or a dictionary by name); or build the model with "
            "`keras.Input(shape)` in full, or use `of='parameters'`. "
            f"Received: example=None, inputs {named}"
        )


def _shares(
    without: Callable[[float], np.ndarray], reached: Callable[[np.ndarray], bool]
) -> tuple[float, float]:
    """Returns two neighbouring shares of channels, of which the upper reaches a target, or is 1."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(without(middle)) else (middle, high)
    return low, high
