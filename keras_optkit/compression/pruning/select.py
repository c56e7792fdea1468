"""Which variables of a model are pruned."""

import re
from collections.abc import Callable, Sequence

import keras

from keras_optkit.core.messages import did_you_mean

# What the default takes: layers whose kernels are plain matrices or filters.
_LAYERS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_KERNELS = ("kernel", "pointwise_kernel")

Select = Callable[[keras.layers.Layer], bool] | str | type | keras.layers.Layer | Sequence


def select_kernels(model: keras.Model, select: Select | None = None) -> list[keras.Variable]:
    """Returns the trainable variables of a model that are to be pruned, each one once.

    Args:
        model: A built model; nested, shared and subclassed layers are found.
        select: What to prune. `None` takes the kernels of rank 2 and more of Dense, EinsumDense,
            convolutions and the pointwise part of separable ones. A layer, a layer class, a
            function from a layer to a boolean, or a list of these takes every trainable variable
            of rank 2 and more that such a layer owns. A string is a regular expression that is
            searched for in the paths of trainable variables; those of rank 1 are taken only where
            it finds no other.

    Returns:
        A list of `keras.Variable`, in the order of the model's layers.

    Raises:
        ValueError: If the model is not built, or nothing is selected; the message lists what
            could be.

    Example:

    >>> [v.path for v in select_kernels(model)]
    ['net/hidden/kernel', 'net/head/kernel']
    """
    if not model.built:
        raise ValueError(
            "The model has no weights yet. Call `model.build(input_shape)`, or call the model once "
            f"on a batch, before `fit`. Received: model={model.name!r}, which is not built"
        )
    trainable = model.trainable_variables
    if isinstance(select, str):
        found = [v for v in trainable if re.search(select, v.path)]
        # A layer's path stands in front of its bias too. Who wants the bias names nothing else.
        found = [v for v in found if len(v.shape) > 1] or found
    else:
        found = [v for layer, v in owners(model).values() if takes(select, layer, v)]
    if not found:
        paths = [v.path for v in trainable if len(v.shape) > 1]
        hint = did_you_mean(select, paths) if isinstance(select, str) else did_you_mean("", paths)
        raise ValueError(f"`select` matches no trainable variable. {hint} Received: {select!r}")
    return found


def owners(
    model: keras.Model, trainable_only: bool = True
) -> dict[int, tuple[keras.layers.Layer, keras.Variable]]:
    """Returns the trainable variables of a model, and of which layer each is.

    Args:
        model: A built model.
        trainable_only: Boolean, whether to leave out those of frozen layers.

    Returns:
        A dictionary from the `id` of a variable to a tuple `(layer, variable)`, in the order of
        the model's layers; a shared variable is in it once.
    """
    found: dict[int, tuple[keras.layers.Layer, keras.Variable]] = {}
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if variable.trainable or not trainable_only:
                found.setdefault(id(variable), (layer, variable))
    return found


def takes(select: Select | None, layer: keras.layers.Layer, variable: keras.Variable) -> bool:
    """Tells whether a selection takes a variable of rank 2 or more of a layer."""
    if len(variable.shape) < 2:
        return False
    if select is None:
        return isinstance(layer, _LAYERS) and variable.name in _KERNELS
    if isinstance(select, (list, tuple, set)):
        return any(takes(item, layer, variable) for item in select)
    if isinstance(select, type):
        return isinstance(layer, select)
    if isinstance(select, keras.layers.Layer):
        return layer is select
    if isinstance(select, str):
        return re.search(select, variable.path) is not None
    if callable(select):
        return bool(select(layer))
    raise ValueError(
        "`select` must be a layer, a layer class, a function of a layer, a regular expression, or "
        f"a list of these. Received: select={select!r}"
    )
