"""How many bytes each device holds of a model and of its optimizer's state."""

import sys
from collections.abc import Iterator

import keras

from keras_optkit.distribution.devices import short_name


def memory_per_device(model: keras.Model) -> dict[str, dict[str, int]]:
    """Returns what each device really holds: it is read from the arrays and where they are.

    A device that holds a part of a weight counts that part, and one with a copy the copy. What a
    step needs besides, such as activations and gradients, is not counted.

    Args:
        model: A built model. Where it is compiled, its optimizer's state is counted; Keras makes
            that at the beginning of the first `fit`.

    Returns:
        A dictionary from the name of each device to one of `"weights"` and `"optimizer"`, in bytes.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> list(memory_per_device(model).values())
    [{'weights': 144, 'optimizer': 0}]
    """
    optimizer = getattr(model, "optimizer", None)
    state = getattr(optimizer, "variables", [])
    found: dict[str, dict[str, int]] = {}
    for kind, variables in (("weights", model.weights), ("optimizer", state)):
        for variable in variables:
            for device, size in _copies(variable):
                held = found.setdefault(device, {"weights": 0, "optimizer": 0})
                held[kind] += size
    return dict(sorted(found.items()))


def _copies(variable: keras.Variable) -> Iterator[tuple[str, int]]:
    """Yields the device and the bytes of each copy or part of a variable."""
    value, backend = variable.value, keras.backend.backend()
    if backend == "tensorflow":
        for copy in getattr(value, "values", [value]):
            yield short_name(copy.device), copy.shape.num_elements() * copy.dtype.size
    elif backend == "jax":
        for part in value.addressable_shards:
            yield f"{part.device.platform}:{part.device.id}", part.data.nbytes
    else:
        device = sys.modules["torch"].device(value.device)
        yield short_name(str(device)), value.nbytes
