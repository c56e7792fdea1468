"""When a training is saved: every so many epochs, steps or seconds."""

import re
import time

from keras_optkit.core.duration import Run, parse, to_steps

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_TIME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*")


class Every:
    """Tells when the next save is due.

    Args:
        every: `"2ep"`, `"500step"` or a number of steps, or a time: `"30s"`, `"10min"`, `"1h"`.

    Raises:
        ValueError: If it is none of these, or zero.
    """

    def __init__(self, every: int | float | str):
        match = _TIME.fullmatch(every) if isinstance(every, str) else None
        try:
            amount, self._unit = (match[1], "time") if match else parse(every, "every")
        except ValueError as error:
            raise ValueError(
                '`every` must be epochs such as "1ep", steps such as "500step", or a time such '
                f'as "30s", "10min" or "1h". Received: every={every!r}'
            ) from error
        self._amount = float(amount) * (_SECONDS[match[2]] if match else 1)
        if self._amount == 0:
            raise ValueError(f"`every` must not be zero. Received: every={every!r}")
        self._every = every
        self._batches: int | None = None

    def start(self, run: Run, updates_per_batch: float, batches: int) -> None:
        """Begins to count.

        Args:
            run: The length of the `fit`.
            updates_per_batch: Float, the weight updates that a batch makes.
            batches: Integer, the batches of this run that are trained on already.
        """
        self._last_time, self._last_batches = time.monotonic(), batches
        whole_epochs = self._unit == "ep" and self._amount == int(self._amount)
        if not whole_epochs and self._unit != "time":
            self._batches = max(1, round(to_steps(self._every, run, "every") / updates_per_batch))

    def due(self, batches: int) -> bool:
        """Whether to save between two batches, after so many batches of this run."""
        if self._batches is not None:
            return batches // self._batches > self._last_batches // self._batches
        return self._unit == "time" and time.monotonic() - self._last_time >= self._amount

    def due_at_end_of(self, epoch: int, batches: int) -> bool:
        """Whether to save at the end of an epoch (from 0)."""
        if self._batches is None and self._unit == "ep":
            return (epoch + 1) % int(self._amount) == 0
        return self.due(batches)

    def saved(self, batches: int) -> None:
        """Counts from here."""
        self._last_time, self._last_batches = time.monotonic(), batches
