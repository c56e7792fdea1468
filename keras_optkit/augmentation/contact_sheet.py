"""A picture of what a layer makes of some images, with the parameters that were drawn."""

import os
import textwrap
from typing import Any

import keras
import numpy as np

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import on_the_host
from keras_optkit.augmentation.stages import fuse


def show(
    layer: AugmentationLayer,
    images: Any,
    path: str | os.PathLike,
    labels: Any = None,
    samples: int = 4,
    parameters: bool = True,
    columns: int = 6,
) -> list[dict[str, Any]]:
    """Saves a grid of images, and below each what a layer made of it, several times.

    The draws are the next ones of the layer's stream, as if it had been called that often.

    Args:
        layer: An augmentation layer of keras_optkit.
        images: Array of shape (batch, height, width, channels), with 1 or 3 channels, as the layer
            takes it.
        path: Where to save the picture. The ending says the format: `.png`, `.pdf` or `.svg`.
        labels: Array of labels of the images, for the titles, and for a layer that changes them.
        samples: Integer, how often each image is augmented.
        parameters: Boolean, whether to write what was drawn below each sample.
        columns: Integer, how many of the images to show at most.

    Returns:
        A list with the table that was drawn for each of the samples: dictionaries of arrays with
        the batch as their first axis.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    ```python
    layer = RandomAffine(rotation=20, translation=0.1, horizontal_flip=True)
    keras_optkit.augmentation.show(layer, x_train[:6], "samples.png")
    ```
    """
    if not isinstance(layer, AugmentationLayer):
        raise ValueError(
            f"`layer` must be an augmentation layer of keras_optkit. Received: layer={layer!r}"
        )
    for name, value in (("samples", samples), ("columns", columns)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be an integer of at least 1. Received: {name}={value!r}"
            )
    images = keras.ops.convert_to_numpy(images)[:columns]
    labels = None if labels is None else keras.ops.convert_to_numpy(labels)[:columns]
    channels = images.shape[1 if layer.data_format == "channels_first" else -1]
    if images.ndim != 4 or channels not in (1, 3):
        raise ValueError(
            "`images` must be a batch of images with 1 or 3 channels. "
            f"Received: images of shape {images.shape}"
        )
    axis = 2 if layer.data_format == "channels_first" else 1
    size = images.shape[axis : axis + 2]
    rows, tables = [(images, labels, None)], []
    for _ in range(samples):
        outputs, table = layer._on_host(images, labels, training=True)
        new_images, new_labels = (outputs, None) if labels is None else outputs
        rows.append((new_images, new_labels, _words(layer, table, size, len(images))))
        tables.append(table)
    _grid(rows, layer, parameters).savefig(path)
    return tables


def _grid(rows, layer, with_text):
    """Returns a figure with the originals on top and a row for each sample."""
    from matplotlib.figure import Figure

    count = len(rows[0][0])
    # Without pyplot, which would set up the user's own backend.
    # Inches: a picture, its title, and three lines below it.
    axis = 1 if layer.data_format == "channels_first" else 0
    tallest = max(images.shape[1 + axis] / images.shape[2 + axis] for images, _, _ in rows)
    height = 2.2 * tallest + 1.1
    figure = Figure(figsize=(2.2 * count, height * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (images, labels, words) in zip(axes, rows, strict=True):
        for i, axis in enumerate(row):
            axis.imshow(_as_colors(images[i], layer), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            title = "original" if words is None else ""
            if labels is not None:
                title = f"{title} {_as_text(labels[i])}".strip()
            axis.set_title(title, fontsize=11)
            if words is not None and with_text:
                axis.set_xlabel(textwrap.fill(words[i], 24), fontsize=11)
    return figure


def _words(layer, table, size, count):
    """Returns for each image, in words, what its row of a table does to it."""
    with on_the_host():
        stages = fuse(layer.stages(table, *size))
        idle = [stage.does_nothing() for stage in stages]
        words = [
            [s.describe(i, size) for s, nothing in zip(stages, idle, strict=True) if not nothing[i]]
            for i in range(count)
        ]
    return [", ".join(dict.fromkeys(row)) or "as it was" for row in words]


def _as_colors(image, layer):
    """Returns an image that came out of a layer with the channels last and values in [0, 1]."""
    if layer.data_format == "channels_first":
        image = image.transpose(1, 2, 0)
    if image.dtype == np.uint8:
        return image / 255
    image = image.astype("float64")
    low, high = image.min(), image.max()
    if not layer.normalizes:
        low, high = layer.value_range or ((0, 255) if high > 1 else (min(low, 0), 1))
    return np.clip((image - low) / ((high - low) or 1), 0, 1)


def _as_text(label):
    """Returns the id of a class, or the shares of the classes of a soft label."""
    label = np.squeeze(label)
    if label.ndim == 0:
        return f"{label:g}"
    largest = [k for k in np.argsort(-label)[:2] if label[k] > 0.005]
    return " + ".join(f"{k}: {label[k]:.2f}" for k in largest)
