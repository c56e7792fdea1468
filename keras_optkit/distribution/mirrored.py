"""Data parallelism on TensorFlow, by `tf.distribute.MirroredStrategy`."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optkit.distribution import preflight
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.placed_model import placing
from keras_optkit.distribution.replaced import replaced
from keras_optkit.distribution.replicas import exact_replicas


class Mirrored(Distribution):
    """Copies of a model on several devices of TensorFlow, which are updated alike.

    Args:
        devices: List of strings such as `"gpu:0"`, which exist.
        synchronize_batch_norm: Boolean, whether BatchNorm uses the statistics of all devices.

    Raises:
        RuntimeError: If another `tf.distribute` strategy is in scope.
    """

    # Whether the engine fails in the loop that `steps_per_execution` makes.
    _step_by_step = False

    def __init__(self, devices: Sequence[str], synchronize_batch_norm: bool = False):
        super().__init__(devices)
        if tf.distribute.has_strategy():
            raise RuntimeError(
                "A `tf.distribute` strategy is in scope already; make the distribution outside of "
                f"it. Received: {tf.distribute.get_strategy()!r}"
            )
        self.synchronize_batch_norm = bool(synchronize_batch_norm)
        reduce = None
        if len(tf.config.list_physical_devices("GPU")) < len(devices) or "cpu" in devices[0]:
            # The collectives need a GPU for each device, and fail in the loop that
            # `steps_per_execution` makes.
            reduce = tf.distribute.ReductionToOneDevice()
        names = [f"/device:{name.upper()}" for name in devices]
        self.strategy = tf.distribute.MirroredStrategy(names, cross_device_ops=reduce)

    @property
    def engine(self) -> str:
        norm = "synchronized" if self.synchronize_batch_norm else "each device by itself"
        return f"tf.distribute.MirroredStrategy\nBatchNorm: {norm}"

    @contextlib.contextmanager
    def scope(self) -> Iterator["Mirrored"]:
        """Returns the context in which the model is built and compiled."""
        with placing(self), self.strategy.scope():
            yield self

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares a model for a call of one of its methods, and puts it back afterwards."""
        if isinstance(arguments.get("x"), tf.distribute.DistributedDataset):
            raise ValueError(
                "The step splits each batch by itself; pass the dataset as it was before "
                "`experimental_distribute_dataset`, batched for all devices together. Received: "
                f"x={arguments['x']!r}"
            )
        if method in ("fit", "train_on_batch"):
            self.check_placed(model)
            preflight.check_settings(model)
            preflight.check_large_enough(preflight.batch_size(arguments), self.num_devices)
        norm = self.synchronize_batch_norm
        with contextlib.ExitStack() as stack:
            stack.enter_context(exact_replicas(model, self.strategy, norm, self._step_by_step))
            if method in ("train_on_batch", "test_on_batch"):
                stack.enter_context(_logs_of_all(model))
            yield

    def check_placed(self, model: keras.Model) -> None:
        """Raises if the optimizer or a metric of a model was not made in the scope."""
        preflight.check_optimizer(model, lambda one: one._distribution_strategy is self.strategy)
        preflight.check_metrics(model, lambda v: getattr(v.value, "values", None) is not None)


def _logs_of_all(model: keras.Model) -> contextlib.AbstractContextManager[None]:
    """Lets `train_on_batch` and `test_on_batch` return the metrics of all replicas.

    Keras returns the mean of what each replica has, whose parts of the batch may differ in size.
    """
    trainer = sys.modules["keras.src.backend.tensorflow.trainer"]
    own = trainer.pythonify_logs

    def pythonify_logs(logs):
        return own(model._get_metrics_result_or_logs(logs))

    return replaced(trainer, pythonify_logs=pythonify_logs)
