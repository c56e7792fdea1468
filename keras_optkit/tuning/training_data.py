"""The data of a trial: its batch size, augmentation, mixing and labels."""

from typing import Any

import keras
import numpy as np

from keras_optkit.tuning.soft_labels import BINARY, SPARSE, one_hot, smoothed

# Under this name `fit` has them; what is cut off for validation is cut off each alike.
_ARRAYS = ("x", "y", "sample_weight")
_CHANGES_IMAGES = ("augmentation", "mixing")


def prepare(
    arguments: dict[str, Any],
    values: dict[str, Any],
    kind: str | None,
    classes: int | None,
    value_range: tuple[float, float] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Returns the arguments of `fit` with the data as the values of a trial want it.

    Args:
        arguments: The arguments of `fit` by their names. They are not changed.
        values: Dictionary from the names in the space to values.
        kind: What `label_kind` returned where labels have to be shares of classes, else `None`.
        classes: Integer, the number of outputs of the model, where `kind` is not `None`.
        value_range: Pair of numbers, black and white of float images, or `None` to tell it from
            the data.
        seed: Integer or `None`, for the order and the draws.

    Raises:
        ValueError: If the data is of a kind that cannot be changed, or is not as a value wants it.
    """
    arguments = dict(arguments)
    if "epochs" in values:
        arguments["epochs"] = values["epochs"]
    augments = any(values.get(name, "none") != "none" for name in _CHANGES_IMAGES)
    if not augments and kind is None and "batch_size" not in values:
        return arguments
    if is_dataset(arguments.get("x")):
        return _prepare_dataset(arguments, values, kind, classes, augments, value_range, seed)
    if not _are_arrays(arguments):
        raise ValueError(
            f"{_wanting(values, kind)} can be searched with NumPy arrays and with a "
            "`tf.data.Dataset`. Pass one of these, or leave it out of the space. "
            f"Received: x={type(arguments.get('x')).__name__}"
        )
    return _prepare_arrays(arguments, values, kind, classes, augments, value_range, seed)


def is_dataset(x: Any) -> bool:
    """Tells whether data is a `tf.data.Dataset`, without importing TensorFlow."""
    names = {f"{c.__module__}.{c.__name__}" for c in type(x).__mro__}
    return any(name.endswith("dataset_ops.DatasetV2") for name in names)


def _wanting(values, kind) -> str:
    names = [name for name in ("batch_size", *_CHANGES_IMAGES) if name in values]
    if kind is not None and "label_smoothing" in values:
        names.append("label_smoothing")
    return " and ".join(map(repr, names))


def _are_arrays(arguments) -> bool:
    given = [arguments.get(name) for name in _ARRAYS]
    return given[0] is not None and all(
        value is None or hasattr(value, "__array__") for value in keras.tree.flatten(given)
    )


def layers_for(
    values: dict[str, Any], kind: str | None, value_range: tuple[float, float], seed: int | None
) -> list:
    """Returns the layers that a trial puts in front of its training data.

    Args:
        values: Dictionary from the names in the space to values.
        kind: What `label_kind` returned, or `None`.
        value_range: Pair of numbers, black and white of float images.
        seed: Integer or `None`.
    """
    from keras_optkit import augmentation as room

    layers = []
    policy, strength = values.get("augmentation", "none"), values.get("augmentation_strength")
    if policy != "none":
        layer, argument = {
            "rand_augment": (room.RandAugment, "magnitude"),
            "trivial_augment_wide": (room.TrivialAugmentWide, None),
            "auto_augment": (room.AutoAugment, None),
            "aug_mix": (room.AugMix, "severity"),
        }[policy]
        settings = {argument: strength} if argument and strength is not None else {}
        layers.append(layer(value_range=value_range, seed=seed, **settings))
    mixing = values.get("mixing", "none")
    if mixing != "none":
        layer = {"mixup": room.MixUp, "cutmix": room.CutMix}[mixing]
        settings = {"alpha": values["mixing_alpha"]} if "mixing_alpha" in values else {}
        classes = 1 if kind == BINARY else None
        layers.append(layer(num_classes=classes, seed=seed, **settings))
    return layers


def _augmented(dataset, values, kind, images, value_range, seed):
    if value_range is None:
        value_range = _range_of(images)
    for layer in layers_for(values, kind, value_range, seed):
        dataset = layer.map(dataset)
    return dataset


def _range_of(images: np.ndarray) -> tuple[float, float]:
    """Tells black and white of images from some of them."""
    if images.dtype == np.uint8:
        return (0, 255)
    low, high = float(images.min()), float(images.max())
    for known in ((0, 1), (-1, 1), (0, 255)):
        if known[0] <= low and high <= known[1]:
            return known
    raise ValueError(
        "Augmentation has to know black and white of the images, and these are in none of [0, 1], "
        "[-1, 1] and [0, 255]. Pass `value_range=(black, white)`, or standardize them in the "
        "model. "
        f"Received: images from {low:g} to {high:g}"
    )


def _require_images(shape, dtype, values) -> None:
    wanting = [name for name in _CHANGES_IMAGES if values.get(name, "none") != "none"]
    if wanting and len(shape) != 4:
        raise ValueError(
            f"'{wanting[0]}' is for images, batches of shape (batch, height, width, channels). "
            f"Leave it out of the space. Received: data of shape {tuple(shape)} and type {dtype}"
        )


def _prepare_arrays(arguments, values, kind, classes, augments, value_range, seed):
    if "batch_size" in values:
        arguments["batch_size"] = values["batch_size"]
    if not augments and kind is None:
        return arguments
    arguments = _cut_off_validation(arguments)
    if kind is not None:
        arguments["y"] = _soft(np.asarray(arguments["y"]), kind, classes)
        validation = arguments.get("validation_data")
        if is_dataset(validation):
            arguments["validation_data"] = _soft_dataset(validation, kind, classes)
        elif validation is not None:
            x, y, *rest = validation
            arguments["validation_data"] = (x, _soft(np.asarray(y), kind, classes), *rest)
        if values.get("label_smoothing"):
            arguments["y"] = smoothed(arguments["y"], values["label_smoothing"], kind)
    if not augments:
        return arguments
    import tensorflow as tf

    x = arguments["x"]
    if not hasattr(x, "__array__"):
        raise ValueError(
            "Augmentation and mixing are for a model with one input of images. Leave them out of "
            f"the space. Received: x={type(x).__name__}"
        )
    x = np.asarray(x)
    _require_images(x.shape, x.dtype, values)
    parts = [x, *(arguments.pop(name) for name in ("y", "sample_weight") if name in arguments)]
    parts = [part for part in parts if part is not None]
    size = arguments.pop("batch_size", None) or 32
    with tf.device("CPU"):
        dataset = tf.data.Dataset.from_tensor_slices(tuple(parts))
        if arguments.pop("shuffle", True):
            dataset = dataset.shuffle(len(x), seed=seed, reshuffle_each_iteration=True)
        dataset = dataset.batch(size)
        arguments["x"] = _augmented(dataset, values, kind, x[:1000], value_range, seed)
    return arguments | {"shuffle": False}


def _cut_off_validation(arguments):
    """Cuts off the last share of the arrays for validation, as `fit` does."""
    share = arguments.pop("validation_split", 0.0)
    if not share or arguments.get("validation_data") is not None:
        return arguments
    given = {name: arguments[name] for name in _ARRAYS if arguments.get(name) is not None}
    count = len(keras.tree.flatten(given["x"])[0])
    kept = int(np.floor(count * (1 - share)))
    first = {n: keras.tree.map_structure(lambda a: a[:kept], v) for n, v in given.items()}
    last = {n: keras.tree.map_structure(lambda a: a[kept:], v) for n, v in given.items()}
    return {**arguments, **first, "validation_data": tuple(last.values())}


def _soft(labels: np.ndarray, kind: str, classes: int) -> np.ndarray:
    if kind == SPARSE:
        return one_hot(labels, classes)
    labels = labels.astype("float32")
    return labels.reshape(-1, 1) if kind == BINARY and labels.ndim == 1 else labels


def _soft_dataset(dataset, kind, classes, smoothing=0.0):
    import tensorflow as tf

    def soft(x, y, *rest):
        if kind == SPARSE:
            y = tf.one_hot(tf.reshape(tf.cast(y, tf.int32), [-1]), classes)
        else:
            y = tf.cast(y, tf.float32)
            if kind == BINARY and y.shape.rank == 1:
                y = tf.expand_dims(y, -1)
        return (x, smoothed(y, smoothing, kind) if smoothing else y, *rest)

    return dataset.map(soft, num_parallel_calls=tf.data.AUTOTUNE)


def _prepare_dataset(arguments, values, kind, classes, augments, value_range, seed):
    import tensorflow as tf

    dataset = arguments["x"]
    if augments or kind is not None:
        spec = dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) < 2:
            raise ValueError(
                "Augmentation, mixing and label smoothing take a dataset of (images, labels). "
                f"Received: a dataset of {spec}"
            )
    if "batch_size" in values:
        dataset = _rebatched(dataset, values["batch_size"])
    if kind is not None:
        dataset = _soft_dataset(dataset, kind, classes, values.get("label_smoothing", 0.0))
        validation = arguments.get("validation_data")
        if is_dataset(validation):
            arguments["validation_data"] = _soft_dataset(validation, kind, classes)
        elif validation is not None:
            x, y, *rest = validation
            arguments["validation_data"] = (x, _soft(np.asarray(y), kind, classes), *rest)
    if augments:
        images = dataset.element_spec[0]
        if not isinstance(images, tf.TensorSpec):
            raise ValueError(
                "Augmentation and mixing are for a model with one input of images. Leave them out "
                f"of the space. Received: a dataset of {dataset.element_spec}"
            )
        _require_images(images.shape, images.dtype.name, values)
        first = next(iter(dataset.take(1)))[0].numpy()
        dataset = _augmented(dataset, values, kind, first, value_range, seed)
    return arguments | {"x": dataset, "shuffle": False}


def _rebatched(dataset, size: int):
    """Batches a dataset of batches anew, and keeps its length known."""
    import tensorflow as tf

    known = int(dataset.cardinality()) >= 0
    new = dataset.rebatch(size)
    if known and int(new.cardinality()) < 0:
        count = sum(int(tf.shape(tf.nest.flatten(e)[0])[0]) for e in dataset)
        new = new.apply(tf.data.experimental.assert_cardinality(-(-count // size)))
    return new


def updates(arguments: dict[str, Any]) -> int | None:
    """Returns the number of batches of a whole `fit`, or `None` where it is not known."""
    x, epochs = arguments.get("x"), arguments.get("epochs", 1)
    if arguments.get("steps_per_epoch"):
        return epochs * arguments["steps_per_epoch"]
    if is_dataset(x):
        length = int(x.cardinality())
        return epochs * length if length >= 0 else None
    if not _are_arrays(arguments):
        return None
    count = len(keras.tree.flatten(x)[0])
    count = int(np.floor(count * (1 - (arguments.get("validation_split") or 0.0))))
    return epochs * -(-count // (arguments.get("batch_size") or 32))
