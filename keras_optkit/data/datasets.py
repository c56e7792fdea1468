"""Image classification sets by name, through TFDS."""

import contextlib
import difflib
import io
import math
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_optkit.core.messages import did_you_mean
from keras_optkit.data import input_pipeline

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class DatasetInfo:
    """What a model needs to know of a dataset before it is built.

    Args:
        name: String, the dataset's name with its version, as `"optkit_digits:1.0.0"`.
        num_classes: Integer, the number of classes.
        image_shape: Tuple `(height, width, channels)`; a part that differs from image to image is
            `None`.
        class_names: Tuple of strings, one for each class.
        num_examples: Dictionary from each split's name to the number of its images.
    """

    name: str
    num_classes: int
    image_shape: tuple[int | None, ...]
    class_names: tuple[str, ...]
    num_examples: dict[str, int]


def info(
    name: str = "optkit_digits",
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
) -> DatasetInfo:
    """Describes a dataset that `load` reads.

    Args:
        name: See `load`.
        data_dir: See `load`.
        download: See `load`.

    Returns:
        A `DatasetInfo`.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: As `load` does.

    Example:

    >>> digits = info("optkit_digits")
    >>> digits.num_classes, digits.image_shape
    (10, (8, 8, 1))
    """
    builder = _prepared_builder(name, data_dir, download)
    image, label = _supervised_features(builder, name)
    return DatasetInfo(
        name=f"{builder.name}:{builder.version}",
        num_classes=label.num_classes,
        image_shape=tuple(image.shape),
        class_names=tuple(label.names),
        num_examples={split: part.num_examples for split, part in builder.info.splits.items()},
    )


def load(
    name: str = "optkit_digits",
    split: str | Sequence[str] = "train",
    batch_size: int = 32,
    image_size: int | tuple[int, int] | None = None,
    augment: Callable | None = None,
    seed: int | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    *,
    shuffle: bool | None = None,
    cache: bool | None = None,
) -> "tf.data.Dataset | tuple[tf.data.Dataset, ...]":
    """Loads an image classification set from TFDS as batches for `fit`.

    The steps and their order are those of TFDS' performance guide: read, resize, cache, shuffle,
    batch, augment, prefetch. What is cached is uint8, a quarter of what `fit` sees.

    One split is for training: the one that is asked for, or the first of several, that reads from
    `"train"` or `"all"`. It is shuffled anew in each epoch and augmented; every other split keeps
    its order and its images.

    Args:
        name: String, a name that TFDS knows, with a configuration or version where needed
            (`"imagenette/160px"`, `"fashion_mnist:3.0.1"`), or `"optkit_digits"`: the 8 by 8 grey
            digits of scikit-learn, which are prepared on first use and need no network.
        split: String in TFDS' notation, as `"train"`, `"test"` or `"train[:80%]"`, or a list or
            tuple of them.
        batch_size: Integer >= 1. The last batch is smaller where the split does not divide.
        image_size: Integer or `(height, width)` in pixels that every image is resized to
            (bilinear, antialiased). `None` leaves the size as it is.
        augment: A Keras layer or a function of TensorFlow operations, from a batch of images
            (float32, as below) to a batch of images, for the split that is for training.
        seed: Integer >= 0 or `None`. With the same seed, and the same global seed of TensorFlow
            (`keras.utils.set_random_seed`), each epoch has the same order in every run. Random
            layers in `augment` have seeds of their own.
        data_dir: The folder that holds a folder for each dataset. `None` is TFDS' own default:
            `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        download: Whether to download the dataset if it is not in `data_dir`.
        shuffle: `True` or `False` to treat all the given splits as for training, or to shuffle
            none of them. `None` decides as said above.
        cache: Whether to keep the decoded and resized images in memory after the first epoch.
            `None` does it where a split takes at most 250 MiB, TFDS' own limit.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, or a tuple of them for several splits. Images
        are float32 of shape `(batch, height, width, channels)` in the range of the stored ones,
        for uint8 sets [0, 255], as Keras' own loaders and image layers have it; put
        `keras.layers.Rescaling(1 / 255)` first in the model. Labels are int32 of shape `(batch,)`.
        The length is known to `fit`, and `dataset.class_names` lists the classes. Pass
        `shuffle=False` to `fit`: Keras warns otherwise that it does not shuffle such a dataset.

    Raises:
        ValueError: If an argument is malformed, the name or the split is unknown, or the dataset
            is not one of images and class labels.
        FileNotFoundError: If the dataset is not prepared in `data_dir` and `download` is `False`.
        ConnectionError: If it has to be downloaded and cannot be.

    Example:

    >>> train, test = load("optkit_digits", split=["train", "test"], batch_size=64, seed=0)
    >>> len(train), len(test)
    (23, 6)

    Reference:

    - [TFDS, performance tips](https://www.tensorflow.org/datasets/performances)
    """
    batch_size = input_pipeline.check_batch_size(batch_size)
    size = None if image_size is None else input_pipeline.check_image_size(image_size)
    seed = input_pipeline.check_seed(seed)
    input_pipeline.check_augment(augment)
    several = isinstance(split, list | tuple)
    if several and not split:
        raise ValueError(f"`split` must name at least one split. Received: split={split!r}")
    splits = list(split) if several else [split]
    training = [shuffle] * len(splits) if shuffle else _for_training(splits)
    if augment is not None and not any(training):
        raise ValueError(
            "`augment` is for training data. Ask for a training split too, or pass "
            f"`shuffle=True` to use this one for training. Received: split={split!r}"
        )

    builder = _prepared_builder(name, data_dir, download)
    datasets = tuple(
        _load_split(
            builder,
            name,
            part,
            batch_size=batch_size,
            size=size,
            augment=augment if is_training else None,
            seed=seed,
            shuffle=is_training and shuffle is not False,
            cache=cache,
        )
        for part, is_training in zip(splits, training, strict=True)
    )
    return datasets if several else datasets[0]


def _for_training(splits) -> list[bool]:
    training = [False] * len(splits)
    for i, split in enumerate(splits):
        if re.search(r"\b(train|all)\b", str(split)):
            training[i] = True
            break
    return training


def _load_split(builder, name, split, *, batch_size, size, augment, seed, shuffle, cache):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    count = _num_examples(builder, name, split)
    image, label = _supervised_features(builder, name)
    shape = tuple(image.shape) if size is None else (*size, image.shape[-1])
    if None in shape[:2]:
        raise ValueError(
            f"The images of {name!r} differ in size and cannot be batched as they are. Pass "
            f"`image_size=(height, width)`. Received: image_size=None"
        )
    dtype = tf.as_dtype(image.np_dtype)
    if size is not None and dtype != tf.uint8:
        dtype = tf.float32
    bytes_each = math.prod((*shape[:2], shape[2] or 3)) * dtype.size
    if cache is None:
        cache = count * bytes_each <= input_pipeline.MEMORY_LIMIT

    options = tf.data.Options()
    options.deterministic = True
    image_key, label_key = builder.info.supervised_keys
    other_images = [
        key
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image) and key != image_key
    ]
    dataset = builder.as_dataset(
        split=split,
        # What is cached is shuffled whole afterwards; the order of its files does not matter.
        shuffle_files=shuffle and not cache and not builder.info.disable_shuffling,
        decoders={key: tfds.decode.SkipDecoding() for key in other_images},
        read_config=tfds.ReadConfig(
            options=options, try_autocache=False, skip_prefetch=True, shuffle_seed=seed
        ),
    )

    def prepare(example):
        picture = example[image_key]
        if size is not None and tuple(image.shape[:2]) != size:
            picture = input_pipeline.resize(picture, size)
        return picture, tf.cast(example[label_key], tf.int32)

    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    if cache:
        dataset = dataset.cache()
    if shuffle:
        dataset = input_pipeline.shuffle(dataset, count, None if cache else bytes_each, seed)
    dataset = input_pipeline.batch(dataset, batch_size, augment, seed)
    dataset.class_names = list(label.names)
    return dataset


def _num_examples(builder, name, split) -> int:
    """Returns the number of examples in a split, once its files are known to be there."""
    import tensorflow as tf

    try:
        part = builder.info.splits[split]
        count, files = part.num_examples, {i.filename for i in part.file_instructions}
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        splits = list(builder.info.splits)
        raise ValueError(
            f"`split` must be one of the splits of {name!r} or a slice of one, as "
            f"'train[:80%]'. {did_you_mean(str(split), splits)} Received: split={split!r}"
        ) from error
    if not count:
        raise ValueError(f"The split of {name!r} is empty. Received: split={split!r}")
    missing = sorted(os.fspath(file) for file in files if not tf.io.gfile.exists(file))
    if missing:
        raise FileNotFoundError(
            f"The prepared copy of {name!r} is not complete; {len(missing)} of its files are "
            f"missing, the first is {missing[0]!r}. Copy them, or delete the folder and prepare it "
            f"again with `download=True`. Received: name={name!r}, split={split!r}"
        )
    return count


def _supervised_features(builder, name):
    """Returns the image feature and the label feature, or says what the dataset holds instead."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys
    if isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(k, str) for k in keys):
        image, label = (features[key] for key in keys)
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            return image, label
    held = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
    raise ValueError(
        "`load` reads datasets of an image and its class label. Use `tensorflow_datasets.load` "
        f"for others. {name!r} has supervised_keys={keys} and the features {held}. "
        f"Received: name={name!r}"
    )


def _prepared_builder(name, data_dir, download):
    """Returns the builder of a dataset whose files are there, preparing them if asked to."""
    import tensorflow_datasets as tfds

    from keras_optkit.data import digits

    if not isinstance(name, str):
        raise ValueError(f"`name` must be a string. Received: name={name!r}")
    root = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))

    def make():
        return tfds.builder(name, data_dir=root)

    try:
        builder = make()
    except tfds.core.DatasetNotFoundError:
        raise ValueError(_unknown_name(name, root)) from None
    except AssertionError as error:
        # What TFDS raises for a version that it does not have.
        raise ValueError(f"{error} Received: name={name!r}, data_dir={data_dir!r}") from error
    if builder.info.initialized:
        return builder
    # Told before anything is downloaded.
    _supervised_features(builder, name)
    if isinstance(builder, digits.OptkitDigits):
        # It takes a second, so what TFDS says about it is of no use to anybody.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return _prepare(builder, make)
    if download:
        return _download(builder, make)
    raise FileNotFoundError(
        f"The dataset {name!r} is not prepared in {os.fspath(builder.data_dir_root)!r}"
        f"{_other_versions(builder)}. Pass `download=True` to download it, or `data_dir=` with "
        f"the folder that holds the folder {builder.name!r}. "
        f"Received: name={name!r}, data_dir={data_dir!r}, download=False"
    )


def _unknown_name(name, root) -> str:
    import tensorflow_datasets as tfds

    names = tfds.list_builders()
    plain = re.split("[/:]", name)[0]
    near = difflib.get_close_matches(plain, names, n=3, cutoff=0.6)
    hint = (
        did_you_mean(plain, near)
        if near
        else f"`tensorflow_datasets.list_builders()` lists the {len(names)} that it knows."
    )
    where = "" if root is None else f" and there is no prepared copy of it in {root!r}"
    return f"TFDS does not know this dataset{where}. {hint} Received: name={name!r}"


def _other_versions(builder) -> str:
    """Says which other versions are there, since an older copy may well do."""
    folder = builder.data_path.parent
    found = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.exists() else []
    found = [version for version in found if re.fullmatch(r"\d+\.\d+\.\d+", version)]
    if not found:
        return ""
    return (
        f" in version {builder.version}; version {', '.join(found)} is there and is read with "
        f"{builder.name + ':' + found[-1]!r} as the name"
    )


def _prepare(builder, make):
    """Writes a dataset's files once, also where several processes come to it at the same time."""
    # TFDS draws the name of the folder that it writes to from `random`. Two processes with one
    # seed would write into each other's, and this process' draws would differ from run to run.
    state = random.getstate()
    random.seed()
    try:
        builder.download_and_prepare()
    except Exception as error:
        # The files are moved into place at the end, which fails for all but the first process.
        if not make().info.initialized:
            if isinstance(error, OSError) and not _is_network(error):
                raise ValueError(
                    "The dataset cannot be written. Pass `data_dir=` with a folder that can be, "
                    f"and that has room. Received: data_dir={os.fspath(builder.data_dir_root)!r} "
                    f"({error})"
                ) from error
            raise
    finally:
        random.setstate(state)
    builder = make()
    if not builder.info.initialized:
        raise ValueError(
            "There is a folder for the dataset that holds no prepared dataset. Delete it and try "
            f"again. Received: {builder.data_dir!r}"
        )
    return builder


def _download(builder, make):
    import tensorflow_datasets as tfds

    if not _reachable(builder):
        raise ConnectionError(
            f"The dataset {builder.name!r} has to be downloaded and its server cannot be reached. "
            "Check the network (HTTPS_PROXY is respected), or copy a prepared dataset here and "
            "pass `data_dir=` with the folder that holds it. "
            f"Received: name={builder.name!r}, download=True"
        )
    try:
        return _prepare(builder, make)
    except Exception as error:
        if isinstance(error, tfds.download.DownloadError) or _is_network(error):
            raise ConnectionError(
                f"The dataset {builder.name!r} could not be downloaded. Try again later, or copy a "
                "prepared dataset here and pass `data_dir=`. "
                f"Received: name={builder.name!r}, download=True ({error})"
            ) from error
        if isinstance(error, AssertionError):
            # What TFDS raises where files have to be fetched by hand; it says which.
            raise ValueError(f"{error} Received: name={builder.name!r}, download=True") from error
        raise


def _is_network(error: Exception) -> bool:
    import requests

    return isinstance(error, requests.RequestException | ConnectionError)


def _reachable(builder) -> bool:
    """Asks up to three of the dataset's servers once; TFDS itself retries for minutes."""
    import requests

    # TFDS writes such a file for each that it has downloaded; there may be all that it takes.
    downloads = builder.data_dir_root / "downloads"
    if any(next(downloads.glob(pattern), None) for pattern in ("*.INFO", "*/*.INFO")):
        return True
    first_urls = {}
    for url in builder.url_infos or {}:
        if url.startswith("http"):
            first_urls.setdefault(url.split("/")[2], url)
    for url in list(first_urls.values())[:3]:
        try:
            requests.head(url, timeout=10)
            return True
        except requests.RequestException:
            continue
    return not first_urls
