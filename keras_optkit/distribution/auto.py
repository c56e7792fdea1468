"""The distribution that suits where the code runs."""

from keras_optkit.distribution.data_parallel import data_parallel
from keras_optkit.distribution.distribution import Distribution


def auto(synchronize_batch_norm: bool = False) -> Distribution:
    """Returns a distribution over all devices of the fastest kind that the backend has.

    On one device it changes nothing, so the same script runs on a laptop and on a machine with
    several GPUs.

    Args:
        synchronize_batch_norm: Boolean, as in `data_parallel`.

    Returns:
        A `Distribution`.

    Raises:
        ValueError: If the environment (`TF_CONFIG`, `WORLD_SIZE`, ...) is malformed, or says that
            several processes train together, each of which would train a model of its own.

    Example:

    >>> distribution = auto()
    >>> with distribution.scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ...     model.compile(keras.optimizers.SGD(distribution.scale_learning_rate(0.1)), "mse")
    >>> batch_size = distribution.global_batch_size(2)
    >>> history = model.fit(np.zeros((8, 4)), np.zeros((8, 3)), batch_size=batch_size, verbose=0)
    """
    return data_parallel(None, synchronize_batch_norm)
