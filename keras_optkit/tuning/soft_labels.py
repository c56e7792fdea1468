"""Losses and metrics for labels that are shares of classes, where a model has those for ids."""

from typing import Any

import keras
import numpy as np

SPARSE, CATEGORICAL, BINARY = "sparse", "categorical", "binary"
_LOSSES = {
    keras.losses.SparseCategoricalCrossentropy: SPARSE,
    keras.losses.CategoricalCrossentropy: CATEGORICAL,
    keras.losses.BinaryCrossentropy: BINARY,
}
_METRICS = {
    keras.metrics.SparseCategoricalAccuracy: keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseTopKCategoricalAccuracy: keras.metrics.TopKCategoricalAccuracy,
    keras.metrics.SparseCategoricalCrossentropy: keras.metrics.CategoricalCrossentropy,
}


def label_kind(loss: Any) -> str:
    """Returns what the labels of a loss are: `"sparse"`, `"categorical"` or `"binary"`.

    Args:
        loss: What was given to `compile`: a string, an object or a function.

    Raises:
        ValueError: If it is none of Keras' crossentropies.
    """
    found = _loss_object(loss)
    for kind, name in _LOSSES.items():
        if type(found) is kind:
            if getattr(found, "ignore_class", None) is None:
                return name
    raise ValueError(
        "Label smoothing and mixing make labels of shares of classes, for which the model must "
        "have one output and a crossentropy: 'sparse_categorical_crossentropy', "
        "'categorical_crossentropy' or 'binary_crossentropy' (without `ignore_class`). Leave "
        "'label_smoothing' and 'mixing' out of the space, or compile the model with one of these. "
        f"Received: loss={loss!r}"
    )


def number_of_classes(model: keras.Model) -> int:
    """Returns how many classes a model tells apart: the width of its one output.

    Args:
        model: A Sequential or Functional model.

    Raises:
        ValueError: If it has several outputs, none yet, or one that is not `(batch, classes)`.
    """
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            "Label smoothing and mixing are for a built model with one output of shape "
            "(batch, classes). Leave 'label_smoothing' and 'mixing' out of the space. "
            f"Received: outputs of shape {[tuple(output.shape) for output in outputs]}"
        )
    return int(outputs[0].shape[-1])


def soft_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments of `compile` that are the same, but take labels as shares of classes.

    The loss gives the same number for a label as the one-hot vector of its class, and so do the
    metrics. A smoothing of the loss itself is taken out: labels for training are smoothed, and
    those for validation are not.

    Args:
        arguments: What `compile_arguments` returned.

    Raises:
        ValueError: If the loss is none of Keras' crossentropies.
    """
    kind = label_kind(arguments["loss"])
    loss = _loss_object(arguments["loss"])
    config = {**loss.get_config(), "label_smoothing": 0.0}
    if kind == SPARSE:
        config = {k: config[k] for k in ("from_logits", "label_smoothing", "reduction", "name")}
        loss = keras.losses.CategoricalCrossentropy(**config)
    else:
        loss = type(loss).from_config(config)
    changed = {**arguments, "loss": loss}
    if kind == SPARSE:
        for name in ("metrics", "weighted_metrics"):
            changed[name] = keras.tree.map_structure(_soft_metric, arguments.get(name))
    return changed


def smoothed(labels: Any, smoothing: float, kind: str) -> Any:
    """Moves a share of each label to all classes alike.

    Args:
        labels: Float array or TensorFlow tensor: `(batch, classes)`, or `(batch, 1)` for
            probabilities.
        smoothing: Float in [0, 1).
        kind: What `label_kind` returned.

    Returns:
        Of the same type and shape: `labels * (1 - smoothing) + smoothing / classes`.

    Example:

    >>> smoothed(np.array([[0.0, 1.0]]), 0.2, "categorical").tolist()
    [[0.1, 0.9]]
    """
    classes = 2 if kind == BINARY else int(labels.shape[-1])
    return labels * (1 - smoothing) + smoothing / classes


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns class ids of shape `(n,)` or `(n, 1)` as float32 vectors of shape `(n, classes)`.

    Args:
        labels: Integer array.
        classes: Integer, the number of classes.

    Raises:
        ValueError: If a label is no class.
    """
    labels = np.asarray(labels).reshape(-1)
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"Labels must be integers from 0 to {classes - 1}, since the model has {classes} "
            f"outputs. Received: labels from {labels.min()} to {labels.max()}"
        )
    return np.eye(classes, dtype="float32")[labels.astype("int64")]


def _loss_object(loss: Any) -> Any:
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        return loss
    if callable(found) and not isinstance(found, keras.losses.Loss):
        for kind in _LOSSES:
            if found is keras.losses.get(_snake(kind.__name__)):
                return kind()
    return found


def _soft_metric(metric: Any) -> Any:
    found = metric
    if isinstance(metric, str) and metric not in ("accuracy", "acc", "crossentropy", "ce"):
        found = keras.metrics.get(metric)
        for kind in _METRICS:
            if found is keras.metrics.get(_snake(kind.__name__)):
                found = kind(name=metric)
    other = _METRICS.get(type(found))
    if other is None:
        return metric
    config = found.get_config()
    return other(**{k: v for k, v in config.items() if k in ("name", "k", "from_logits", "dtype")})


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
