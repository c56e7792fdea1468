"""A search that ends in time."""

import time

import keras


class TimeIsUp(KeyboardInterrupt):
    """The time of a search is over. It ends it as Ctrl-C does: what runs is repeated later."""


class Deadline(keras.callbacks.Callback):
    """Stops a search in the middle of a trial, but not in the first.

    Args:
        minutes: Number above 0, counted from now, or `None` for no end.
    """

    async_safe = True

    def __init__(self, minutes: float | None):
        super().__init__()
        self._end = None if minutes is None else time.time() + 60 * minutes
        # Whether a trial has completed, so that there is something to return.
        self.armed = False

    def __deepcopy__(self, memo):
        # KerasTuner copies callbacks for each trial; this one learns in mid-trial that it is armed.
        return self

    def check(self) -> None:
        """Raises `TimeIsUp` if it is."""
        if self.armed and self._end is not None and time.time() > self._end:
            raise TimeIsUp

    def on_train_batch_end(self, batch, logs=None):
        self.check()

    def on_epoch_end(self, epoch, logs=None):
        # A trial that has come to its end is worth recording.
        if epoch + 1 < self.params.get("epochs", 0):
            self.check()
