"""Where in a Keras model an operation of a TensorFlow graph comes from."""

import re
from collections.abc import Mapping, Sequence

import keras


def place_of(model: keras.Model, path: str) -> str | None:
    """Returns the name of the layer that an operation of a traced model belongs to.

    Args:
        model: The model that was traced.
        path: The operation's name in the graph, such as `"functional_1/dense_1/MatMul"`: Keras
            opens each layer's scope twice, so that the second has a number behind its name.

    Returns:
        The name of the innermost layer that is named, or `None`.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.ELU(name="mine")])
    >>> place_of(model, "sequential_1/mine_1/Elu")
    'mine'
    """
    names = {layer.name for layer in model._flatten_layers(include_self=False)}
    for part in reversed(path.split("/")):
        for name in (re.sub(r"_\d+$", "", part), part):
            if name in names:
                return name
    return None


def with_places(model: keras.Model, operations: Mapping[str, Sequence[str]]) -> str:
    """Returns a list of operations, each with the layers that it is in.

    Args:
        model: The model.
        operations: From an operation's type to the names of its calls in the graph.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.ELU(name="mine")])
    >>> with_places(model, {"ELU": ["sequential_1/mine_1/Elu"], "SIN": []})
    "ELU (in the layer 'mine'), SIN"
    """
    facts = []
    for kind, paths in sorted(operations.items()):
        found = sorted({repr(name) for p in paths if (name := place_of(model, p)) is not None})
        layers = f"layer{'s' * (len(found) > 1)} {', '.join(found)}"
        facts.append(f"{kind} (in the {layers})" if found else kind)
    return ", ".join(facts)
