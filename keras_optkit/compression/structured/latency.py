"""How long a model takes on LiteRT, and with how many channels it takes a share of that."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.core.graph import rebuild

# How far from the target, as a share of it, a measured ratio may be. Below that lies the noise of
# most machines.
TOLERANCE = 0.05
_CONVERSIONS = 6
# Of the original and the smaller model together, in seconds.
_TIMED, _RUNS = 1.0, (40, 2000)
_BLOCKS = 10


@dataclasses.dataclass(frozen=True)
class LatencyChange:
    """What a smaller model takes on LiteRT beside the original, timed in turn on this machine.

    Args:
        before_ms: Float, the median of the original for one sample on one thread.
        after_ms: Float, the median of the smaller model.
        ratio: Float, the median over parts of the measurement of what the smaller model takes over
            what the original does.
        noise: Float, two standard errors of the ratio.
        runs: Integer, how often each was run.
    """

    before_ms: float
    after_ms: float
    ratio: float
    noise: float
    runs: int

    @classmethod
    def of(cls, before: np.ndarray, after: np.ndarray) -> "LatencyChange":
        """Summarises times in milliseconds that were taken in turn."""
        pairs = zip(np.array_split(before, _BLOCKS), np.array_split(after, _BLOCKS), strict=True)
        ratios = [np.median(b) / np.median(a) for a, b in pairs]
        return cls(
            float(np.median(before)),
            float(np.median(after)),
            float(np.median(ratios)),
            float(2 * np.std(ratios, ddof=1) / np.sqrt(_BLOCKS)),
            len(before),
        )


class LatencyMeter:
    """Times models beside one on LiteRT.

    Args:
        model: The model that the others are timed beside.
        arrays: Dictionary from an input's name to an array, of which the first sample is used, or
            `None` for random inputs.
    """

    def __init__(self, model: keras.Model, arrays: dict[str, np.ndarray] | None):
        self._model = model
        self._arrays = arrays
        self._before: Callable[[], None] | None = None

    def __call__(self, model: keras.Model) -> LatencyChange:
        """Converts a model and times it in turn with the first one."""
        from keras_optkit.compression.export.measure import interleaved_times

        models = [model] if self._before else [model, self._model]
        after, *rest = self._calls(models)
        self._before = self._before or rest[0]
        calls = [self._before, after]
        start = time.perf_counter()
        interleaved_times(calls, 5, 5)
        runs = _TIMED / (time.perf_counter() - start) * 10
        return LatencyChange.of(*interleaved_times(calls, int(np.clip(runs, *_RUNS)), 5))

    def _calls(self, models: list[keras.Model]) -> list[Callable[[], None]]:
        from keras_optkit.compression.export.litert_converter import ConversionError, Job, convert
        from keras_optkit.compression.export.litert_model import LiteRTModel

        contents = convert([Job(self._sized(model)) for model in models])
        for content in contents:
            if isinstance(content, ConversionError):
                raise content
        return [LiteRTModel.from_bytes(c).timed_call(1, 1, self._arrays) for c in contents]

    def _sized(self, model: keras.Model) -> keras.Model:
        """Returns a model whose inputs have the sizes of the arrays, where its own are open."""
        from keras_optkit.compression.export.signature import input_specs, pack_inputs

        specs = input_specs(model)
        if not any(None in spec.shape[1:] for spec in specs):
            return model
        inputs = [
            keras.Input(self._arrays[spec.name].shape[1:], dtype=spec.dtype, name=spec.name)
            for spec in specs
        ]
        return keras.Model(inputs, rebuild(model)(pack_inputs(model, inputs)))


def search(
    measure: Callable[[float], Any], target: float, guess: float, attempts: int = _CONVERSIONS
) -> float:
    """Returns the share of channels that has to leave for a ratio to fall to a target.

    The ratio should fall as the share grows, and 1 is that of a share of 0. It is noisy and dear,
    so it is measured few times: at the guess, then between the two nearest.

    Args:
        measure: A function from a share in [0, 1] to what has a `ratio` and its `noise`.
        target: Float in (0, 1).
        guess: Float in [0, 1], the share to begin with.
        attempts: Integer, how often it is measured at most.

    Returns:
        The share, of those measured, whose ratio is the highest that is no more than the tolerance
        above the target; if there is none, that of the lowest.

    Raises:
        ValueError: If the ratio stays above the target when all leaves that may.
    """
    found: dict[float, float] = {}
    low, high = (0.0, 1.0), None
    share, sides = guess, []
    while len(found) < attempts:
        change = measure(share)
        sides.append(change.ratio < target)
        found[share] = change.ratio
        if abs(change.ratio - target) <= TOLERANCE * target:
            break
        if change.ratio < target:
            high = (share, change.ratio)
        else:
            low = (share, change.ratio)
            if share == 1.0:
                if change.ratio - change.noise > target * (1 + TOLERANCE):
                    raise ValueError(
                        f"`target` is below what can be reached: {change.ratio:.3g} of the latency "
                        f"(give or take {change.noise:.2g}) stay when all channels leave that may. "
                        f"Received: target={target!r}"
                    )
                break
        if high is None:
            share = 1.0
            continue
        # On the line between the two, or halfway where that has missed on one side twice.
        part = 0.5
        if sides[-2:] != 2 * sides[-1:] and low[1] > high[1]:
            part = (low[1] - target) / (low[1] - high[1])
        share = low[0] + min(max(part, 0.1), 0.9) * (high[0] - low[0])
    reached = [s for s, ratio in found.items() if ratio <= target * (1 + TOLERANCE)]
    return max(reached, key=found.get) if reached else min(found, key=found.get)
