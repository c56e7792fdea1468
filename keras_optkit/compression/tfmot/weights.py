"""The weights of a layer for its counterpart."""

from typing import Any

import numpy as np


def values(layer: Any) -> list[tuple[str, np.ndarray]]:
    """Returns the names and values of a layer's weights, on either Keras.

    Args:
        layer: A built layer.
    """
    return [
        (weight.name.split("/")[-1].split(":")[0], _to_numpy(weight)) for weight in layer.weights
    ]


def carry(source: Any, target: Any) -> None:
    """Gives a layer the weights of its counterpart, by their names and order.

    Args:
        source: The layer that has the weights.
        target: The layer that gets them.

    Raises:
        ValueError: If the two don't have the same weights.
    """
    given, wanted = values(source), values(target)
    # Some are called otherwise, such as the kernel of a depthwise convolution; these go in order.
    if sorted(name for name, _ in given) == sorted(name for name, _ in wanted):
        by_name: dict[str, list[np.ndarray]] = {}
        for name, value in given:
            by_name.setdefault(name, []).append(value)
        given = [(name, by_name[name].pop(0)) for name, _ in wanted]
    if [value.shape for _, value in given] != [value.shape for _, value in wanted]:
        raise ValueError(_mismatch(source, given, wanted))
    target.set_weights([value for _, value in given])
    if hasattr(target, "finalize_state"):
        target.finalize_state()


def _to_numpy(weight: Any) -> np.ndarray:
    # A copy: what a backend hands out may be its own buffer.
    return np.array(weight.numpy() if hasattr(weight, "numpy") else weight)


def _mismatch(layer: Any, given: list, wanted: list) -> str:
    def shapes(pairs):
        return [(name, value.shape) for name, value in pairs]

    return (
        f"The weights of the layer '{layer.name}' ({type(layer).__name__}) are not those of its "
        f"counterpart, which has {shapes(wanted)}. Received: {shapes(given)}"
    )
