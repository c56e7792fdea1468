"""The `fit` that a callback runs in, which tells its callbacks less than a resume has to know."""

import sys
from types import FrameType

import keras
from keras.src.trainers.epoch_iterator import EpochIterator


class RunningFit:
    """The list of callbacks of a running `fit`, and its input.

    Keras hands neither to a callback, and keeps both in local variables of `fit`. They are read
    from there, once, in `on_train_begin`.

    Attributes:
        epochs: The `EpochIterator` that yields the batches.
        callbacks: The list of all callbacks, with those that Keras adds.
    """

    def __init__(self):
        self.epochs: EpochIterator | None = None
        self._list: keras.callbacks.CallbackList | None = None
        frame = sys._getframe(1)
        while frame is not None and self.epochs is None:
            local = frame.f_locals
            if self._list is None and isinstance(local.get("self"), keras.callbacks.CallbackList):
                self._list = local["self"]
            if isinstance(local.get("epoch_iterator"), EpochIterator):
                self.epochs = local["epoch_iterator"]
            frame = frame.f_back
        if self.epochs is None or self._list is None:
            raise RuntimeError(
                "`Resume` works inside `model.fit` of Keras, and found none around it (Keras "
                f"{keras.__version__}). Received: a training loop of another kind"
            )

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        return self._list.callbacks

    def surround(
        self, first: keras.callbacks.Callback, last: keras.callbacks.Callback, more: list
    ) -> None:
        """Lets two callbacks act before and behind all others from the next event on.

        Args:
            first: The callback that acts first.
            last: The callback that acts last.
            more: Callbacks that are not in the list yet, and act before the last.
        """
        # A new list: Keras goes through the old one at this moment.
        self._list.callbacks = [first, *self.callbacks, *more, last]
        if more:
            # Keras asked only the others whether threads may tell them of batches.
            self._list._async_train = self._list._async_test = False
        for callback in (first, *more, last):
            callback.set_model(self._list.model)
            callback.set_params(self._list.params)

    def remove(self, *callbacks: keras.callbacks.Callback) -> None:
        """Takes callbacks out of the list."""
        self._list.callbacks = [each for each in self.callbacks if each not in callbacks]

    def wait_for_callbacks(self) -> None:
        """Waits until every callback has seen the batch before, where threads tell them."""
        self._list._flush_futures()


def inside_fit(frame: FrameType | None) -> bool:
    """Returns whether a frame is part of a running `fit`."""
    while frame is not None:
        if isinstance(frame.f_locals.get("epoch_iterator"), EpochIterator):
            return True
        frame = frame.f_back
    return False
