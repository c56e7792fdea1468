"""The steps that every image pipeline here is made of: resize, cache, shuffle, batch, augment."""

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    import tensorflow as tf

# TFDS keeps a dataset in memory by itself up to this size (`DatasetBuilder._should_cache_ds`).
MEMORY_LIMIT = 250 * 2**20


def check_batch_size(batch_size: int) -> int:
    """Returns the batch size if it is an integer >= 1, else raises a `ValueError`."""
    if not _is_positive_integer(batch_size):
        raise ValueError(
            f"`batch_size` must be an integer >= 1. Received: batch_size={batch_size!r}"
        )
    return int(batch_size)


def check_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns `(height, width)` from one integer >= 1 or two, else raises a `ValueError`."""
    size = (image_size, image_size) if isinstance(image_size, numbers.Integral) else image_size
    if isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_positive_integer, size)):
        return int(size[0]), int(size[1])
    raise ValueError(
        "`image_size` must be an integer >= 1 or a pair of them, (height, width). "
        f"Received: image_size={image_size!r}"
    )


def check_seed(seed: int | None) -> int | None:
    """Returns the seed if it is `None` or an integer >= 0, else raises a `ValueError`."""
    if seed is None:
        return None
    if isinstance(seed, numbers.Integral) and not isinstance(seed, bool) and seed >= 0:
        return int(seed)
    raise ValueError(f"`seed` must be None or an integer >= 0. Received: seed={seed!r}")


def check_augment(augment: Callable | None) -> None:
    """Raises a `ValueError` unless `augment` is `None` or can be called."""
    if augment is not None and not callable(augment):
        raise ValueError(
            "`augment` must be a Keras layer or a function of a batch of images. "
            f"Received: augment={augment!r}"
        )


def resize(image: "tf.Tensor", size: tuple[int, int]) -> "tf.Tensor":
    """Resizes an image by the bilinear filter, widened where it shrinks, as Pillow does it.

    Args:
        image: A tensor of shape `(height, width, channels)`.
        size: The `(height, width)` of the result.

    Returns:
        A tensor of shape `(*size, channels)`: uint8 (rounded) for a uint8 image, else float32.
    """
    import tensorflow as tf

    resized = tf.image.resize(image, size, antialias=True)
    if image.dtype == tf.uint8:
        return tf.saturate_cast(tf.round(resized), tf.uint8)
    return resized


def shuffle(
    dataset: "tf.data.Dataset", count: int, bytes_each: int | None, seed: int | None
) -> "tf.data.Dataset":
    """Shuffles anew in each epoch, over all of the data or as much of it as memory may hold.

    Args:
        dataset: A `tf.data.Dataset` of single examples.
        count: Integer, the number of examples.
        bytes_each: Integer, the size of an example that only the shuffling keeps in memory, or
            `None` where it takes no memory worth counting.
        seed: Integer or `None`.
    """
    room = count if bytes_each is None else max(1, MEMORY_LIMIT // bytes_each)
    return dataset.shuffle(min(count, room), seed=seed, reshuffle_each_iteration=True)


def batch(
    dataset: "tf.data.Dataset",
    batch_size: int,
    augment: Callable | None = None,
    seed: int | None = None,
) -> "tf.data.Dataset":
    """Batches images, turns them into float32, augments the batches, and prefetches.

    Args:
        dataset: A `tf.data.Dataset` of `(image, label)`, or of images alone.
        batch_size: Integer, the size of all batches but the last.
        augment: A Keras layer or a function, from images to images, or `None`.
        seed: Integer or `None`. With a seed the batches are augmented one after the other, so that
            each gets the same random numbers in every run.

    Returns:
        A `tf.data.Dataset` of the same structure, of known length if `dataset` is.

    Raises:
        ValueError: If `augment` does not run inside tf.data.
    """
    import tensorflow as tf

    def to_float(images, *labels):
        images = tf.cast(images, tf.float32)
        return (images, *labels) if labels else images

    dataset = dataset.batch(batch_size).map(to_float, num_parallel_calls=tf.data.AUTOTUNE)
    if augment is not None:
        parallel_calls = tf.data.AUTOTUNE if seed is None else None
        dataset = _augmented(dataset, augment, parallel_calls)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _augmented(dataset, augment, parallel_calls):
    import tensorflow as tf

    is_layer = isinstance(augment, keras.layers.Layer)

    def apply(images, *labels):
        # Some layers, as GaussianNoise, do nothing unless they are told that this is training.
        images = augment(images, training=True) if is_layer else augment(images)
        return (images, *labels) if labels else images

    try:
        augmented = dataset.map(apply, num_parallel_calls=parallel_calls)
    except Exception as error:
        # TensorFlow puts a trace of the user's code in front of the message itself.
        kind = type(error).__name__
        reason = (str(error).strip().splitlines() or [""])[-1].strip().removeprefix(f"{kind}: ")
        raise ValueError(
            "`augment` must run inside tf.data: a function of TensorFlow operations, or a Keras "
            "layer that works there on every backend, as the image layers of Keras and of this "
            "package do (chain several with `keras.layers.Pipeline`). On the "
            f"{keras.backend.backend()} backend it raised {kind}: {reason} "
            f"Received: augment={augment!r}"
        ) from error
    spec = augmented.element_spec
    images = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(images, tf.TensorSpec) or images.shape.rank != 4:
        raise ValueError(
            "`augment` must return a batch of images, a tensor of rank 4. "
            f"Received: augment={augment!r}, which returns {images}"
        )
    return augmented


def _is_positive_integer(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1
