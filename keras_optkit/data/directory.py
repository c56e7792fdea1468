"""Folders of images, one sub-folder for each class."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_optkit.data import input_pipeline

if TYPE_CHECKING:
    import tensorflow as tf

# What `tf.io.decode_image` reads.
FORMATS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
CLASS_MODES = ("sparse", "categorical", "binary", None)
SUBSETS = ("training", "validation", "both")
CHANNELS = {"rgb": 3, "grayscale": 1}


def from_directory(
    path: str | os.PathLike,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    class_mode: str | None = "sparse",
    validation_split: float | None = None,
    subset: str | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    color_mode: str = "rgb",
    augment: Callable | None = None,
    *,
    cache: bool | None = None,
    verify: bool = True,
) -> "tf.data.Dataset | tuple[tf.data.Dataset, tf.data.Dataset]":
    """Reads a folder with one sub-folder of images for each class as batches for `fit`.

    It takes the place of `ImageDataGenerator.flow_from_directory`. Every image is decoded once
    before training starts, so that a broken file is named then and left out, and does not end an
    epoch half way. The validation images are a fixed share of each class, chosen by their names:
    the same folder gives the same split whatever the seed, so two calls for the two halves cannot
    overlap, and when images are added nearly all others stay in their half.

    Args:
        path: The folder. Its sub-folders, sorted by name, are the classes; images may lie at any
            depth below them. Hidden files and folders are passed over. Formats: BMP, GIF (the
            first frame), JPEG, PNG, WebP.
        image_size: Integer or `(height, width)` in pixels that every image is resized to
            (bilinear, antialiased).
        batch_size: Integer >= 1. The last batch is smaller where the images do not divide.
        class_mode: `"sparse"`: int32 labels of shape `(batch,)`. `"categorical"`: one-hot float32
            of shape `(batch, classes)`. `"binary"`, for two classes: float32 of shape
            `(batch, 1)`. `None`: no labels, and no need of sub-folders.
        validation_split: Float in (0, 1), the share of each class that is held out, or `None`. A
            class of one image keeps it for training.
        subset: With `validation_split`: `"training"`, `"validation"`, or `"both"` for a tuple of
            the two.
        shuffle: Whether to shuffle the training images, anew in each epoch and over all of them.
            Validation images are never shuffled.
        seed: Integer >= 0 or `None`. With the same seed, and the same global seed of TensorFlow
            (`keras.utils.set_random_seed`), each epoch has the same order in every run. Random
            layers in `augment` have seeds of their own.
        color_mode: `"rgb"` or `"grayscale"`.
        augment: A Keras layer or a function of TensorFlow operations, from a batch of training
            images (float32, as below) to a batch of images.
        cache: Whether to keep the decoded and resized images in memory, as uint8, after the first
            epoch. `None` does it where they take at most 250 MiB.
        verify: Whether to decode every image beforehand. Only pass `False` for a folder that was
            verified before and is too large to be read twice.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, or of images where `class_mode` is `None`, or
        for `subset="both"` a tuple of two. Images are float32 of shape
        `(batch, height, width, channels)` in [0, 255]; put `keras.layers.Rescaling(1 / 255)` first
        in the model. The length is known to `fit`. `dataset.class_names` lists the classes,
        `dataset.file_paths` the images in their unshuffled order, and `dataset.skipped_paths` the
        files that could not be read.

    Raises:
        ValueError: If an argument is malformed, or the folder does not hold at least two classes
            with a readable image in each.
        FileNotFoundError: If there is no such folder.

    Example:

    ```python
    train, validation = from_directory(
        "flowers", image_size=(96, 96), validation_split=0.2, subset="both", seed=0
    )
    # Keras warns that it does not shuffle a tf.data.Dataset itself, unless it is told not to.
    model.fit(train, validation_data=validation, epochs=5, shuffle=False)
    ```
    """
    size = input_pipeline.check_image_size(image_size)
    batch_size = input_pipeline.check_batch_size(batch_size)
    seed = input_pipeline.check_seed(seed)
    input_pipeline.check_augment(augment)
    _check_choice("class_mode", class_mode, CLASS_MODES)
    _check_choice("color_mode", color_mode, tuple(CHANNELS))
    _check_split(validation_split, subset)
    if augment is not None and subset == "validation":
        raise ValueError(
            "`augment` is for training images; leave it out for the validation subset. "
            f"Received: subset={subset!r}, augment={augment!r}"
        )
    root = Path(path).expanduser()
    class_names, files, labels = _index(root, with_labels=class_mode is not None)
    skipped = _unreadable(files) if verify else set()
    if skipped:
        names = sorted(os.path.relpath(file, root) for file in skipped)
        warnings.warn(
            f"{len(skipped)} of {len(files)} images in {str(root)!r} cannot be read and are left "
            f"out: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}",
            stacklevel=2,
        )
        labels = labels[[file not in skipped for file in files]]
        files = [file for file in files if file not in skipped]
    if class_mode is not None:
        _check_classes(root, class_names, labels, class_mode)
    if not files:
        raise ValueError(f"No image in the folder can be read. Received: path={str(root)!r}")

    for_validation = np.zeros(len(files), bool)
    if validation_split is not None:
        names = [Path(file).relative_to(root).as_posix() for file in files]
        for_validation = validation_mask(names, labels, validation_split)
        if not for_validation.any():
            raise ValueError(
                "A class of one image keeps it for training, and no class has two, which leaves "
                f"no image for validation. Received: path={str(root)!r}"
            )

    def make(members, is_training):
        dataset = _to_dataset(
            [files[i] for i in members],
            _encode(labels[members], class_mode, len(class_names)),
            size=size,
            channels=CHANNELS[color_mode],
            batch_size=batch_size,
            shuffle=shuffle and is_training,
            seed=seed,
            augment=augment if is_training else None,
            cache=cache,
        )
        dataset.class_names = class_names
        dataset.skipped_paths = sorted(skipped)
        return dataset

    if subset == "validation":
        return make(np.flatnonzero(for_validation), is_training=False)
    training = make(np.flatnonzero(~for_validation), is_training=True)
    if subset != "both":
        return training
    return training, make(np.flatnonzero(for_validation), is_training=False)


def validation_mask(names: list[str], labels: np.ndarray, share: float) -> np.ndarray:
    """Chooses a share of each class by the hash of the names.

    Args:
        names: Strings that tell the examples apart, as paths within the dataset.
        labels: Integer array of shape `(len(names),)`.
        share: Float in (0, 1), the share of each class to choose, at least one example of it and
            never all.

    Returns:
        Boolean array of shape `(len(names),)`, `True` for what is chosen.
    """
    order = np.argsort([hashlib.blake2b(name.encode()).hexdigest() for name in names])
    chosen = np.zeros(len(names), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        chosen[members[:count]] = True
    return chosen


def _check_choice(name, value, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}")


def _check_split(validation_split, subset) -> None:
    if validation_split is None:
        if subset is not None:
            raise ValueError(
                "`subset` needs `validation_split`, the share of the images that is held out. "
                f"Received: subset={subset!r}, validation_split=None"
            )
        return
    if not isinstance(validation_split, float) or not 0 < validation_split < 1:
        raise ValueError(
            "`validation_split` must be a float between 0 and 1. "
            f"Received: validation_split={validation_split!r}"
        )
    if subset not in SUBSETS:
        raise ValueError(
            f"With `validation_split`, `subset` must be one of {SUBSETS}. "
            f"Received: subset={subset!r}"
        )


def _index(root: Path, with_labels: bool) -> tuple[list[str], list[str], np.ndarray]:
    """Lists the classes, the files with an image's ending, and the label of each file."""
    if not root.exists():
        raise FileNotFoundError(
            "`path` must be a folder with one sub-folder of images for each class; there is no "
            f"such folder. Received: path={str(root)!r}"
        )
    if not root.is_dir():
        raise ValueError(f"`path` must be a folder, not a file. Received: path={str(root)!r}")
    if not with_labels:
        files = _list_images(root)
        if not files:
            raise ValueError(_nothing_found(root))
        return [], files, np.zeros(len(files), "int32")
    class_names = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    if len(class_names) < 2:
        raise ValueError(
            "A classifier needs at least two classes: `path` must be a folder with one sub-folder "
            f"of images for each. It has {_listing(class_names, 'sub-folder')} and "
            f"{len(_list_images(root))} images (pass `class_mode=None` to read them without "
            f"labels). Received: path={str(root)!r}"
        )
    by_class = [_list_images(root / name) for name in class_names]
    files = [file for members in by_class for file in members]
    if not files:
        raise ValueError(_nothing_found(root))
    labels = np.repeat(np.arange(len(by_class), dtype="int32"), [len(m) for m in by_class])
    return class_names, files, labels


def _list_images(folder: Path) -> list[str]:
    return [file for file in _walk(folder) if file.lower().endswith(FORMATS)]


def _walk(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [os.path.join(parent, name) for name in files if name[0] != "."]
    return sorted(found)


def _nothing_found(root: Path) -> str:
    endings = Counter(os.path.splitext(file)[1].lower() or "no ending" for file in _walk(root))
    others = ", ".join(f"{count} with {ending}" for ending, count in endings.most_common(5))
    return (
        f"There is no image in the folder. Formats: {', '.join(FORMATS)}. "
        f"Other files: {others or 'none'}. Received: path={str(root)!r}"
    )


def _check_classes(root, class_names, labels, class_mode) -> None:
    empty = [name for i, name in enumerate(class_names) if i not in labels]
    if empty:
        raise ValueError(
            f"Each class needs an image that can be read; {_listing(empty, 'sub-folder')} "
            f"has none. Add images or remove it. Received: path={str(root)!r}"
        )
    if class_mode == "binary" and len(class_names) != 2:
        raise ValueError(
            "`class_mode='binary'` is for two classes. "
            f"Received: {len(class_names)} classes, {class_names}"
        )


def _listing(names: list[str], noun: str) -> str:
    """Counts and names: "2 sub-folders ('cat', 'dog')"."""
    shown = ", ".join(repr(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}{f' ({shown})' if names else ''}"


def _unreadable(files: list[str]) -> set[str]:
    """Returns the files that do not decode as an image, looking at several at a time."""
    with ThreadPool(2 * (os.cpu_count() or 1)) as pool:
        readable = pool.map(_is_readable, files)
    return {file for file, good in zip(files, readable, strict=True) if not good}


def _is_readable(file: str) -> bool:
    import tensorflow as tf

    try:
        with tf.device("cpu"):
            _decode(tf.io.read_file(file), 3)
    except tf.errors.OpError:
        return False
    return True


def _decode(data, channels):
    import tensorflow as tf

    # Asked for one channel, TensorFlow refuses GIF, BMP, WebP and CMYK files.
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    return image if channels == 3 else tf.image.rgb_to_grayscale(image)


def _encode(labels: np.ndarray, class_mode: str | None, num_classes: int) -> np.ndarray | None:
    if class_mode == "sparse":
        return labels
    if class_mode == "categorical":
        return np.eye(num_classes, dtype="float32")[labels]
    if class_mode == "binary":
        return labels[:, np.newaxis].astype("float32")
    return None


def _to_dataset(
    files, labels, *, size, channels, batch_size, shuffle, seed, augment, cache
) -> "tf.data.Dataset":
    import tensorflow as tf

    def read(file, *label):
        image = input_pipeline.resize(_decode(tf.io.read_file(file), channels), size)
        return (image, *label) if label else image

    if cache is None:
        cache = len(files) * size[0] * size[1] * channels <= input_pipeline.MEMORY_LIMIT
    dataset = tf.data.Dataset.from_tensor_slices(files if labels is None else (files, labels))
    if shuffle and not cache:
        dataset = input_pipeline.shuffle(dataset, len(files), None, seed)
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    if cache:
        dataset = dataset.cache()
        if shuffle:
            dataset = input_pipeline.shuffle(dataset, len(files), None, seed)
    dataset = input_pipeline.batch(dataset, batch_size, augment, seed)
    dataset.file_paths = list(files)
    return dataset
