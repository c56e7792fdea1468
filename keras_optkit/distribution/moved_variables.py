"""Variables of TensorFlow that go to another device."""

from collections.abc import Sequence

import keras
import tensorflow as tf


def move(places: Sequence[tuple[keras.Variable, str]]) -> None:
    """Moves variables to devices: all of them, or none where one of them finds no room.

    Args:
        places: Sequence of pairs of a variable and TensorFlow's name of a device.
    """
    moved = []
    for variable, device in places:
        old = variable.value
        if old.device.endswith(device):
            continue
        with tf.init_scope(), tf.device(device):
            new = tf.Variable(
                tf.identity(old),
                trainable=old.trainable,
                name=old.name.partition(":")[0],
                dtype=old.dtype,
                synchronization=old.synchronization,
                aggregation=old.aggregation,
            )
        # What an optimizer knows its weight by.
        new._unique_id = old._unique_id
        moved.append((variable, new))
    for variable, new in moved:
        variable._value = new
