"""Data parallelism on JAX, by `keras.distribution.DataParallel`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_optkit.distribution import preflight
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.placed_model import placing
from keras_optkit.distribution.replaced import replaced


class Sharded(Distribution):
    """A model on several devices of JAX, each of which takes a part of the batch.

    Args:
        devices: List of strings such as `"gpu:0"`, which exist.
    """

    engine = "keras.distribution.DataParallel\nBatchNorm: synchronized, as JAX sees one batch"

    def __init__(self, devices: Sequence[str]):
        super().__init__(devices)
        self.distribution = keras.distribution.DataParallel(devices=self.devices)

    @contextlib.contextmanager
    def scope(self) -> Iterator["Sharded"]:
        """Returns the context in which the model is built and compiled."""
        with placing(self), self.distribution.scope():
            yield self

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares a model for a call of one of its methods, and puts it back afterwards."""
        from keras.src.backend.jax import distribution_lib

        trains = method in ("fit", "train_on_batch")
        size = None
        if trains:
            self.check_placed(model)
            size = preflight.batch_size(arguments)
            preflight.check_large_enough(size, self.num_devices)
            if size is not None:
                self._check_divisible(size)
        place = _Place(self, first_is_full=method == "fit" and size is None)
        with self.distribution.scope(), replaced(distribution_lib, distribute_data_input=place):
            try:
                yield
            finally:
                if trains:
                    _separate_averages(model)

    def place(self, batch: Any, sharding: Any) -> Any:
        """Returns a batch on the devices."""
        import jax

        return jax.make_array_from_process_local_data(sharding, batch)

    def check_placed(self, model: keras.Model) -> None:
        """Raises if the optimizer or a metric of a model was not made in the scope."""
        mesh = self.distribution.device_mesh

        def placed(variable):
            return len(variable.value.sharding.device_set) == mesh.devices.size

        preflight.check_optimizer(model, lambda one: all(map(placed, one.variables)))
        preflight.check_metrics(model, placed)

    def _check_divisible(self, size: int) -> None:
        rest = size % self.num_devices
        if rest:
            below, above = size - rest, size - rest + self.num_devices
            raise ValueError(
                f"JAX splits a batch over {self.num_devices} devices evenly. Use a batch size of "
                f"{f'{below} or ' if below else ''}{above}; the last batch may be smaller. "
                f"Received: batch_size={size}"
            )


class _Place:
    """Puts a batch on the devices; a last one that cannot be split, whole on each of them."""

    def __init__(self, distribution: Sharded, first_is_full: bool):
        self._distribution = distribution
        self._first_is_full = first_is_full

    def __call__(self, batch: Any, layout: Any, batch_dim_name: str) -> Any:
        import jax

        if batch is None:
            # The weights that `train_on_batch` was not given.
            return None
        if self._first_is_full:
            self._first_is_full = False
            self._distribution._check_divisible(batch.shape[0])
        sharding = getattr(layout, "backend_layout", layout)
        if batch.shape[0] % self._distribution.num_devices:
            whole = jax.sharding.PartitionSpec()
            sharding = jax.sharding.NamedSharding(sharding.mesh, whole)
        return self._distribution.place(batch, sharding)


def _separate_averages(model: keras.Model) -> None:
    """Gives each weight memory of its own again.

    With `use_ema=True` Keras ends `fit` by assigning the averages to the weights, which then share
    their memory; the next `fit` would give it away twice.
    """
    if not any(optimizer.use_ema for optimizer in preflight.optimizers(model)):
        return
    for variable in model.trainable_variables:
        if not variable.value.is_deleted():
            variable.assign(variable.value.copy())
