"""Cosine decay with warm restarts."""

import functools
from typing import Any

import numpy as np
from keras import ops

from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import completed, cosine_between, power
from keras_optkit.schedules.schedule import Schedule, check_rate, check_share


@register
class CosineRestarts(Schedule):
    """Lowers the learning rate along half a cosine, again and again.

    The first cycle is `every` long, and each one `t_mul` times as long as the one before; it ends
    at the nearest whole step. Cycle `i` falls from
    `floor + (initial_learning_rate - floor) * m_mul ** i` to `floor = alpha *
    initial_learning_rate`. A warm-up is part of the first cycle.

    Args:
        initial_learning_rate: Float > 0, the rate at the start, or at the end of the warm-up.
        every: Duration of the first cycle: `"10ep"`, `"500step"`, a fraction of the run in
            (0, 1], or an integer number of steps.
        t_mul: Float >= 1, the factor by which each cycle is longer than the last. Defaults to 2.
        m_mul: Float in (0, 1], the factor of the amplitude with each restart. Defaults to 1.
        alpha: Float in [0, 1], the lowest rate as a share of the initial one. Defaults to 0.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = CosineRestarts(0.1, 100, t_mul=2, m_mul=0.5)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100, 200, 300)]
    [0.1, 0.05, 0.05, 0.025, 0.025]

    Reference:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017. The
        amplitude's decay is that of `keras.optimizers.schedules.CosineDecayRestarts`.
    """

    durations = ("every",)

    def __init__(
        self,
        initial_learning_rate: float,
        every: int | float | str,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
    ):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.every = every
        self.t_mul = check_rate("t_mul", t_mul)
        if self.t_mul < 1:
            raise ValueError(f"`t_mul` must be at least 1. Received: t_mul={t_mul!r}")
        self.m_mul = check_share("m_mul", m_mul)
        self.alpha = check_share("alpha", alpha, zero=True)
        self._validate()

    def _validate(self) -> None:
        super()._validate()
        self._check_warmup("every")

    def _rate(self, step: Any) -> Any:
        every, warmup = self._steps["every"], float(self._steps["warmup"])
        if self.t_mul == 1:
            cycle = completed(step, every)
            begin, end = cycle * every, (cycle + 1) * every
        else:
            starts = ops.convert_to_tensor(_starts(every, self.t_mul))
            # TensorFlow searches for vectors only.
            index = ops.searchsorted(starts, ops.reshape(step, (-1,)), side="right")
            index = ops.reshape(index, ops.shape(step))
            begin, end = ops.take(starts, index - 1), ops.take(starts, index)
            cycle = ops.cast(index - 1, "float32")
        floor = self.alpha * self.initial_learning_rate
        top = floor + (self.initial_learning_rate - floor) * power(self.m_mul, cycle)
        return cosine_between(top, floor, step, ops.maximum(begin, warmup), end)


@functools.lru_cache
def _starts(every: int, t_mul: float) -> np.ndarray:
    """The first step of each cycle, up to the last step that float32 can count."""
    last = 2**24
    cycles = np.arange(2 + np.ceil(np.log1p(last * (t_mul - 1) / every) / np.log(t_mul)))
    return np.rint(every * np.expm1(cycles * np.log(t_mul)) / (t_mul - 1)).astype("float32")
