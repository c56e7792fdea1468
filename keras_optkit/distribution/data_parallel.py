"""A copy of the model on each device, each of which takes a part of every batch."""

from collections.abc import Sequence

import keras

from keras_optkit.distribution.devices import list_devices, resolve_devices
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.environment import check_one_process


def data_parallel(
    devices: int | Sequence[str] | None = None, synchronize_batch_norm: bool = False
) -> Distribution:
    """Returns a distribution that splits every batch over several devices of this machine.

    Loss, metrics and weights are those of one device that has the whole batch, up to rounding:
    also where the devices' parts differ in size, with weights, masks, clipping, accumulation and
    regularizers. Dropout and random layers draw other numbers on each device of TensorFlow, the
    same ones in every run with one seed.

    What shares the batch: `tf.distribute.MirroredStrategy` on TensorFlow, a `keras.distribution`
    on JAX. On torch, one device only.

    Args:
        devices: The number of devices, their names (`["gpu:0", "gpu:1"]`), or `None` for all of
            the fastest kind. One device that is the default one changes nothing.
        synchronize_batch_norm: Boolean, whether every `BatchNormalization` uses the statistics of
            the whole batch, which makes it exact, too. Otherwise each device of TensorFlow
            normalizes its part by itself, and the moving statistics are the mean over the devices.
            On JAX they are always those of the whole batch.

    Returns:
        A `Distribution`.

    Raises:
        ValueError: If a device does not exist, if the backend cannot use several, or if the
            environment says that several processes train together.

    Example:

    >>> distribution = data_parallel(["cpu:0"])
    >>> with distribution.scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ...     model.compile("sgd", "mse")
    >>> history = model.fit(np.zeros((8, 4)), np.zeros((8, 3)), verbose=0)
    """
    check_one_process()
    names = resolve_devices(devices)
    if names == list_devices()[:1]:
        return Distribution(names)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_optkit.distribution.mirrored import Mirrored

        return Mirrored(names, synchronize_batch_norm)
    if backend == "jax":
        from keras_optkit.distribution.sharded import Sharded

        return Sharded(names)
    if devices is None:
        return Distribution(names[:1])
    raise ValueError(
        "On torch a process trains on one device, which is the first one that it sees; choose it "
        "by CUDA_VISIBLE_DEVICES. Several devices in one process work on the tensorflow and jax "
        f"backends. Received: devices={devices!r}"
    )
