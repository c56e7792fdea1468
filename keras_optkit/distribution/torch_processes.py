"""Data parallelism on torch, by `torch.distributed`."""

import contextlib
import weakref
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import torch

from keras_optkit.distribution import preflight
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.placed_model import placing
from keras_optkit.distribution.replaced import replaced
from keras_optkit.distribution.torch_group import TorchGroup
from keras_optkit.distribution.torch_parts import SharedSteps, _optimizers


class TorchProcesses(Distribution):
    """Processes of torch, each of which computes its part of every batch.

    Args:
        synchronize_batch_norm: Boolean, whether BatchNorm uses the statistics of all processes.
            Otherwise each normalizes its part by itself, and the moving statistics are the mean.
        start_limit: Float > 0, seconds within which all processes have to come.
        limit: Float > 0, seconds within which every process has to answer.

    Raises:
        ValueError: If the environment does not say which processes train together.
        RuntimeError: If not all of them come in time, or the port is in use.
    """

    def __init__(
        self, synchronize_batch_norm: bool = False, start_limit: float = 300, limit: float = 600
    ):
        self.group = TorchGroup(start_limit, limit)
        super().__init__([self.group.device])
        self.synchronize_batch_norm = bool(synchronize_batch_norm)
        self._alike: weakref.WeakSet[keras.Model] = weakref.WeakSet()
        self._steps: weakref.WeakKeyDictionary[keras.Model, SharedSteps] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def engine(self) -> str:
        norm = "synchronized" if self.synchronize_batch_norm else "each process by itself"
        return f"torch.distributed, {self.group.backend}\nBatchNorm: {norm}"

    @property
    def num_devices(self) -> int:
        """How many processes share a batch, each on one device."""
        return self.group.count

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files, which is number 0."""
        return self.group.rank == 0

    @contextlib.contextmanager
    def scope(self) -> Iterator["TorchProcesses"]:
        """Returns the context in which the model is built and compiled."""
        self.group.share_randomness()
        with placing(self):
            yield self

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares a model for a call of one of its methods, and puts it back afterwards."""
        if model in self._steps:
            # `fit` calls `evaluate`.
            yield
            return
        trains = method in ("fit", "train_on_batch")
        if trains:
            _check_settings(model)
            preflight.check_large_enough(preflight.batch_size(arguments), self.num_devices)
        _check_whole(arguments.get("x"))
        if method in ("fit", "evaluate", "predict"):
            self.group.share_randomness()
        if method == "fit":
            self._alike.discard(model)
        steps = SharedSteps(model, self.group, self.synchronize_batch_norm)
        self._steps[model] = steps
        try:
            with self._made_alike(model), steps.installed():
                yield
        finally:
            del self._steps[model]

    @contextlib.contextmanager
    def _made_alike(self, model: keras.Model) -> Iterator[None]:
        """Lets a model begin with what it has in process 0, as soon as it is built."""

        def first(own):
            def make(force=False):
                if model not in self._alike:
                    self._make_alike(model)
                return own(force)

            return make

        names = ("make_train_function", "make_test_function", "make_predict_function")
        with replaced(model, **{name: first(getattr(model, name)) for name in names}):
            yield

    def _make_alike(self, model: keras.Model) -> None:
        optimizers = [one for optimizer in _optimizers(model) for one in optimizer.variables]
        variables = list({id(v): v for v in (*model.variables, *optimizers)}.values())
        shapes = str([(tuple(v.shape), str(v.dtype)) for v in variables])
        told = self.group.tell([len(variables), zlib.crc32(shapes.encode())])
        if len({tuple(numbers) for numbers in told}) > 1:
            raise ValueError(
                "The processes built different models or optimizers. All must run the same script. "
                f"Received: {[count for count, _ in told]} variables in processes 0 to "
                f"{self.group.count - 1}"
            )
        self.group.broadcast([v._value for v in variables])
        if variables:
            self._alike.add(model)


def _check_settings(model: keras.Model) -> None:
    if model.jit_compile:
        raise ValueError(
            "torch.compile cannot compile a step that several processes share; compile with "
            "`jit_compile='auto'` or False. Received: jit_compile=True"
        )


def _check_whole(x: Any) -> None:
    sampler = getattr(x, "sampler", None)
    if isinstance(sampler, torch.utils.data.DistributedSampler):
        raise ValueError(
            "The step splits each batch by itself; pass a DataLoader of the whole data without "
            "a DistributedSampler, with the batch size of all processes together. Received: "
            f"x={x!r}"
        )
