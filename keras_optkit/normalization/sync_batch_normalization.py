"""BatchNorm with statistics of the whole batch where devices share it."""

import sys
from typing import Any

import keras
from keras import ops

from keras_optkit.core.serialization import register
from keras_optkit.normalization.moments import shifted_moments


@register
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """BatchNorm whose statistics are those of all replicas' samples together.

    Outputs, moving statistics and gradients are those of one device that has the whole batch, also
    where the replicas' shares differ in size. Mean and variance are computed in a shifted form, so
    that features far from zero lose no digits, with one device or many.

    What shares a batch, by backend:

    - TensorFlow: the replicas of a `tf.distribute` strategy.
    - JAX: nothing is left to do, as a `keras.distribution` shards one array and sums over it are
      over all devices.
    - torch: the processes of the default group of `torch.distributed`, once it is initialized.

    `keras.layers.BatchNormalization(synchronized=True)` is for TensorFlow only, and computes
    `E[x^2] - E[x]^2`.

    Args:
        axis: Integer, the axis of the channels. Defaults to -1.
        momentum: Float in [0, 1), how slowly the moving statistics follow. Defaults to 0.99.
        epsilon: Float > 0, added to the variance. Defaults to 0.001, as in Keras.
        **kwargs: Further arguments of `keras.layers.BatchNormalization` except `synchronized`.

    Returns:
        A tensor of the shape of the input and of the compute dtype.

    Raises:
        ValueError: If an argument is out of its range or not one of those.

    Example:

    >>> layer = SyncBatchNormalization()
    >>> outputs = layer(np.array([[999.0], [1001.0]]), training=True)
    >>> keras.ops.convert_to_numpy(outputs).round(2)
    array([[-1.],
           [ 1.]], dtype=float32)

    Reference:
        Peng et al., "MegDet: A Large Mini-Batch Object Detector", 2018, section 3.3 (statistics
        over devices).
    """

    def __init__(self, axis: int = -1, momentum: float = 0.99, epsilon: float = 0.001, **kwargs):
        if "synchronized" in kwargs:
            raise ValueError(
                "`SyncBatchNormalization` is always synchronized; leave the argument out. "
                f"Received: synchronized={kwargs['synchronized']!r}"
            )
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)

    def _moments(self, inputs, mask):
        if mask is not None:
            mask = ops.broadcast_to(ops.expand_dims(mask, -1), ops.shape(inputs))
        axes = tuple(self._reduction_axes)
        mean, squares, count = shifted_moments(inputs, axes, mask, _sum_over_replicas)
        return ops.squeeze(mean, axes), ops.squeeze(squares / ops.maximum(count, 1), axes)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["synchronized"]
        return config


def _sum_over_replicas(values: list) -> list:
    """Sums tensors over the replicas that share a batch; gradients are summed too."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        tf = sys.modules["tensorflow"]
        context = tf.distribute.get_replica_context()
        # Outside of a replica Keras only looks at shapes.
        if context is None or context.num_replicas_in_sync == 1:
            return values
        return context.all_reduce(tf.distribute.ReduceOp.SUM, values)
    if backend == "torch":
        import torch

        group = torch.distributed
        if not (group.is_available() and group.is_initialized()) or group.get_world_size() == 1:
            return values
        from torch.distributed.nn.functional import all_reduce

        # It works in place.
        return [all_reduce(value.clone()) for value in values]
    return values
