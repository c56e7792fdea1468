"""The order of the data: where a `fit` is in its input, and how a later process gets there.

Where an epoch starts, Keras makes an iterator, and with it draws the order of the epoch. So a
process that goes on makes the iterators that were made before, draws from the same random numbers,
and passes over the batches of the epoch that were trained on. The callbacks see none of it.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
from keras.src.trainers.epoch_iterator import EpochIterator

from keras_optkit.stopping.resume.random import random_state, set_random_state


class DataOrder:
    """The position of a `fit` in its input.

    Args:
        epochs: The `EpochIterator` of the `fit`.
    """

    def __init__(self, epochs: EpochIterator):
        self._epochs = epochs
        self._adapter = epochs.data_adapter
        self._dataset = getattr(self._adapter, "py_dataset", None)
        self._first = {name: _copy(value) for name, value in self._attributes().items()}
        self._start = random_state()
        self._epoch = self._now()

    @property
    def batches(self) -> int | None:
        """The batches in an epoch, `None` where it is not known yet."""
        return self._epochs.num_batches

    def begin_epoch(self) -> None:
        """Marks the begin of an epoch, before its order is drawn."""
        self._epoch = self._now()

    def get_state(self) -> dict[str, Any]:
        """Returns what a later process needs to go on here."""
        return {
            "batches": self.batches,
            "start": self._start,
            "epoch": self._epoch,
            "now": self._now(),
        }

    def go_to(self, epochs: int, batch: int, state: dict[str, Any]) -> None:
        """Goes to a batch, behind so many whole epochs; called where that epoch begins.

        Args:
            epochs: Integer, the whole epochs of this `fit` that were run before.
            batch: Integer, the batches of the epoch to pass over.
            state: What `get_state` returned.
        """
        self._start = state["start"]
        if self._epochs.steps_per_epoch is not None:
            # One iterator goes through all epochs, so all that was read is read again.
            set_random_state(self._start)
            for _ in range(epochs):
                for _, _, iterator in self._epochs._enumerate_iterator():
                    self._pass_over(iterator)
        else:
            self._make_iterators(epochs, state["batches"])
            self._set(state["epoch"] if batch > 0 else state["now"])
        if batch > 0:
            self._epochs._enumerate_iterator = self._from(batch, lambda: self._arrive(state))
        elif self._epochs.steps_per_epoch is not None:
            self._arrive(state)

    def put_back_end(self, state: dict[str, Any]) -> None:
        """Puts back what the data left behind where the run had ended."""
        self._set(state["now"])

    def _arrive(self, state: dict[str, Any]) -> None:
        # A PyDataset may draw in its items. What it drew was drawn again on the way here, perhaps
        # by a thread that is ahead of this one.
        if self._dataset is None:
            set_random_state(state["now"]["random"])

    def _make_iterators(self, epochs: int, batches: int | None) -> None:
        if isinstance(self._adapter, TFDatasetAdapter):
            for _ in range(epochs):
                if keras.backend.backend() == "tensorflow" and self.batches is not None:
                    # It makes one for the next epoch at the end of each, in vain.
                    for _ in self._epochs._enumerate_iterator():
                        pass
                else:
                    iter(self._adapter._dataset)
        if self.batches is None and epochs > 0:
            # The end of data of unknown length shows only where it is read.
            self._epochs._num_batches = batches

    def _from(self, batch: int, arrive: Callable[[], None]) -> Callable[[], Iterator]:
        def enumerate_iterator():
            del self._epochs._enumerate_iterator
            steps = self._epochs._enumerate_iterator()
            for begin, end, iterator in steps:
                if begin < batch:
                    self._pass_over(iterator)
                    continue
                arrive()
                yield begin, end, iterator
                break
            yield from steps

        return enumerate_iterator

    def _pass_over(self, iterator: Iterator) -> None:
        for _ in range(self._epochs.steps_per_execution):
            next(iterator, None)

    def _now(self) -> dict[str, Any]:
        """The random numbers, and what a PyDataset has that draws or counts."""
        state = {"random": random_state()}
        if hasattr(self._dataset, "get_state") and hasattr(self._dataset, "set_state"):
            state["dataset"] = self._dataset.get_state()
        elif self._dataset is not None:
            state["attributes"] = {
                name: _generator_state(value) if _is_generator(value) else _copy(value)
                for name, value in self._attributes().items()
                if _is_generator(value) or not np.array_equal(value, self._first[name])
            }
        return state

    def _set(self, state: dict[str, Any]) -> None:
        set_random_state(state["random"])
        if "dataset" in state:
            self._dataset.set_state(state["dataset"])
        for name, value in state.get("attributes", {}).items():
            own = getattr(self._dataset, name, None)
            if _is_generator(own):
                _set_generator_state(own, value)
            else:
                setattr(self._dataset, name, value)

    def _attributes(self) -> dict[str, Any]:
        """Generators, counters, and lists of indices: what a PyDataset's order is made of."""
        if self._dataset is None:
            return {}
        own = {k: v for k, v in vars(self._dataset).items() if not isinstance(v, bool)}
        return {k: v for k, v in own.items() if _is_generator(v) or _counts(v)}


def build_from(model: keras.Model, epochs: EpochIterator) -> None:
    """Builds what Keras, on TensorFlow, builds in its first step: optimizer, loss and metrics."""
    dataset = getattr(epochs, "_distributed_dataset", None)
    if dataset is not None and model._distribute_strategy is None:
        model._symbolic_build(data_batch=dataset.element_spec)


def _counts(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, int) for item in value)
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return isinstance(value, int)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (list, np.ndarray)) else value


def _is_generator(value: Any) -> bool:
    kinds = (np.random.Generator, np.random.RandomState, random.Random, keras.random.SeedGenerator)
    return isinstance(value, kinds)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, random.Random):
        version, words, gauss = generator.getstate()
        return [version, np.array(words, "uint32"), gauss]
    return np.array(keras.ops.convert_to_numpy(generator.state))


def _set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        version, words, gauss = state
        generator.setstate((version, tuple(int(word) for word in words), gauss))
    else:
        generator.state.assign(state)
