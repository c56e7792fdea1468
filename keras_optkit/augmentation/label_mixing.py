"""The core of MixUp and CutMix: partners, ratios, patches, and labels mixed by them."""

import sys
from typing import Any

import keras
import numpy as np

from keras_optkit.augmentation.backend import is_concrete, is_tensorflow, ops_for

# In how many equal steps of probability the ratios are tabulated.
_STEPS = 4096


def beta_quantiles(alpha: float) -> np.ndarray:
    """Tabulates the inverse of the cumulative distribution Beta(alpha, alpha).

    A ratio is then one look-up for one random number, on every backend and under XLA, for which
    TensorFlow has no sampler of this distribution.

    Args:
        alpha: Number above 0.

    Returns:
        A float32 array of shape (4097,): the values below which a ratio lies with probability
        0, 1 / 4096, 2 / 4096, ..., 1.

    Example:

    >>> beta_quantiles(1.0)[[0, 1024, 4096]].tolist()
    [0.0, 0.25, 1.0]
    """
    points = np.linspace(0.0, 1.0, 32 * _STEPS + 1)
    if alpha < 1:
        # The density has a pole at 0, which the power alpha of the value as variable takes away.
        variable = points * 0.5**alpha
        values = variable ** (1 / alpha)
        density = (1 - values) ** (alpha - 1)
    else:
        variable = values = 0.5 * points
        density = (4 * values * (1 - values)) ** (alpha - 1)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(variable)
    probability = np.concatenate([[0.0], np.cumsum(steps)])
    half = np.interp(
        np.linspace(0.0, 0.5, _STEPS // 2 + 1), probability / probability[-1] / 2, values
    )
    return np.concatenate([half, 1 - half[-2::-1]]).astype("float32")


def look_up(quantiles: np.ndarray, draws: Any) -> Any:
    """Returns the numbers of a distribution that belong to random numbers in [0, 1).

    Args:
        quantiles: What `beta_quantiles` returned.
        draws: Float32 tensor.

    Returns:
        A float32 tensor of the shape of `draws`.
    """
    ops = ops_for(draws)
    draws = ops.convert_to_tensor(draws)
    place = draws * (len(quantiles) - 1)
    below = ops.minimum(ops.floor(place), len(quantiles) - 2)
    share, index = place - below, ops.cast(below, "int32")
    table = ops.convert_to_tensor(quantiles)
    low, high = ops.take(table, index, axis=0), ops.take(table, index + 1, axis=0)
    return low + share * (high - low)


def cut_boxes(ratio: Any, draws: Any, height: Any, width: Any) -> tuple[Any, Any]:
    """Places the patches of CutMix, and finds the true share of what is left of an image.

    A patch has the sides `height * sqrt(1 - ratio)` and `width * sqrt(1 - ratio)` around a centre
    anywhere in the image, and is cut off at its edge.

    Args:
        ratio: Float32 tensor of shape (batch,), the share of the image itself.
        draws: Float32 tensor of shape (batch, 2) in [0, 1): of the centre's row and column.
        height: Integer or scalar tensor, the height of the images in pixels.
        width: Integer or scalar tensor, their width.

    Returns:
        An int32 tensor of shape (batch, 4), see `draw_rectangles`, and a float32 tensor of shape
        (batch,): the share of the pixels outside of it.

    Reference: Yun et al., 2019, https://arxiv.org/abs/1905.04899, section 3.2 and appendix A.
    """
    ops = ops_for(ratio)
    ratio, draws = ops.convert_to_tensor(ratio), ops.convert_to_tensor(draws)
    side = ops.sqrt(1 - ratio)
    limits, extent = [], []
    for i, size in enumerate((height, width)):
        size = ops.cast(size, "float32")
        half = ops.floor(ops.floor(size * side) / 2)
        centre = ops.floor(draws[:, i] * size)
        low, high = ops.maximum(centre - half, 0.0), ops.minimum(centre + half, size)
        limits.append((low, high))
        extent.append((high - low) / size)
    (top, bottom), (left, right) = limits
    boxes = ops.cast(ops.stack([top, left, bottom, right], axis=-1), "int32")
    return boxes, 1 - extent[0] * extent[1]


def check_label_values(labels: Any, num_classes: int | None) -> None:
    """Checks that class ids are in [0, num_classes), where something can be raised.

    With values at hand it raises a `ValueError`, and in a graph of `tf.data` TensorFlow's
    `InvalidArgumentError` when the graph is run. In a step that is compiled nothing can be raised.

    Args:
        labels: Tensor that `check_labels` accepts.
        num_classes: Integer, or `None`.
    """
    if not are_class_ids(labels, num_classes):
        return
    allowed = f"Labels that are class ids must be in [0, {num_classes})."
    if is_concrete(labels):
        ids = keras.ops.convert_to_numpy(labels)
        wrong = ids[(ids < 0) | (ids >= num_classes)]
        if len(wrong):
            raise ValueError(f"{allowed} Received: labels {wrong[:5].tolist()}")
    elif is_tensorflow(labels):
        tf = sys.modules["tensorflow"]
        ids = tf.cast(labels, "int64")
        fine = tf.reduce_all((ids >= 0) & (ids < num_classes))
        tf.debugging.Assert(fine, [allowed, "Received:", labels])


def mix(values: Any, partner: Any, ratio: Any) -> Any:
    """Returns `ratio * values + (1 - ratio) * values[partner]`, computed in float32.

    Args:
        values: Tensor of shape (batch, ...).
        partner: Int32 tensor of shape (batch,).
        ratio: Float32 tensor of shape (batch,).

    Returns:
        A float32 tensor of the shape of `values`.

    Example:

    >>> mixed = mix(np.eye(2, dtype="float32"), np.array([1, 0]), np.array([0.75, 1], "float32"))
    >>> keras.ops.convert_to_numpy(mixed).tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    ops = ops_for(values)
    values = ops.cast(values, "float32")
    ratio = ops.reshape(ops.cast(ratio, "float32"), (-1,) + (1,) * (len(values.shape) - 1))
    return ratio * values + (1 - ratio) * ops.take(values, partner, axis=0)


def soft_labels(labels: Any, num_classes: int | None) -> Any:
    """Turns labels into rows of probabilities, which can be mixed.

    Args:
        labels: Integers of shape (batch,) or (batch, 1), or one-hot or soft labels of shape
            (batch, num_classes).
        num_classes: Integer, or `None` if the labels are rows already. 1 stands for a single
            probability per image.

    Returns:
        A float32 tensor of shape (batch, num_classes), in which the row of an integer outside of
        [0, num_classes) is NaN.
    """
    ops = ops_for(labels)
    if are_class_ids(labels, num_classes):
        ids = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
        one_hot = ops.cast(ids == ops.arange(num_classes, dtype="int32"), "float32")
        return ops.where((ids >= 0) & (ids < num_classes), one_hot, float("nan"))
    return ops.cast(labels, "float32")


def are_class_ids(labels: Any, num_classes: int | None) -> bool:
    """Whether labels of a shape and type that `check_labels` accepts are the ids of classes."""
    return len(labels.shape) == 1 or (labels.shape[1] == 1 and num_classes != 1)


def check_labels(labels: Any, num_classes: int | None, batch: int | None) -> None:
    """Raises `ValueError` unless labels can be mixed, as far as shape and type tell.

    Args:
        labels: Tensor or array.
        num_classes: Integer, or `None`.
        batch: Integer, how many images there are, or `None` if this is not known.
    """
    shape, dtype = tuple(labels.shape), keras.backend.standardize_dtype(labels.dtype)
    received = f"Received: labels of shape {shape} and type {dtype}, num_classes={num_classes}"
    if len(shape) not in (1, 2):
        raise ValueError(
            "Labels must be class ids of shape (batch,) or (batch, 1), or probabilities of shape "
            f"(batch, num_classes). {received}"
        )
    if None not in (shape[0], batch) and shape[0] != batch:
        raise ValueError(f"There must be as many labels as images, which are {batch}. {received}")
    if are_class_ids(labels, num_classes):
        if "int" not in dtype:
            raise ValueError(
                "The ids of classes have no average. Cast them to int32 and pass `num_classes`, "
                "or pass one-hot labels of shape (batch, num_classes). For a single probability "
                f"per image, pass `num_classes=1` and labels of shape (batch, 1). {received}"
            )
        if num_classes is None:
            raise ValueError(
                "Labels that are class ids need `num_classes`, with which the layer makes them "
                f"one-hot. {received}"
            )
    elif num_classes is not None and shape[1] not in (None, num_classes):
        raise ValueError(f"One-hot and soft labels must have `num_classes` columns. {received}")
