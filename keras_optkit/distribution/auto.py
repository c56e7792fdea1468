"""The distribution that suits where the code runs."""

from keras_optkit.distribution.data_parallel import data_parallel
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.environment import read_environment
from keras_optkit.distribution.multi_worker import multi_worker


def auto(synchronize_batch_norm: bool = False) -> Distribution:
    """Returns a distribution over all devices of the fastest kind that the backend has.

    On one device it changes nothing, so the same script runs on a laptop, on a machine with several
    GPUs, and, where the environment says that several processes train together, as one of them.

    Args:
        synchronize_batch_norm: Boolean, as in `data_parallel`.

    Returns:
        A `Distribution`.

    Raises:
        ValueError: If the environment (`TF_CONFIG`, `WORLD_SIZE`, ...) is malformed.
        TimeoutError: If it speaks of a process that does not come, see `multi_worker`.

    Example:

    >>> distribution = auto()
    >>> with distribution.scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ...     model.compile(keras.optimizers.SGD(distribution.scale_learning_rate(0.1)), "mse")
    >>> batch_size = distribution.global_batch_size(2)
    >>> history = model.fit(np.zeros((8, 4)), np.zeros((8, 3)), batch_size=batch_size, verbose=0)
    """
    if read_environment().count > 1:
        return multi_worker(None, synchronize_batch_norm)
    return data_parallel(None, synchronize_batch_norm)
