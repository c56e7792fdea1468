"""Gradients on data, on any backend, without a training step."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.core.graph import rebuild


def squared_products(model: keras.Model, data: Any, axes: dict[int, int]) -> dict[int, np.ndarray]:
    """Returns, for each channel, the mean over batches of (the sum of gradient times weight) ** 2.

    Args:
        model: A compiled Sequential or Functional model. It stays as it is: a copy is used.
        data: A dataset of batches (inputs, targets), or a tuple of these two as arrays.
        axes: Dictionary from the id of a trainable variable to the axis of its channels.

    Returns:
        Dictionary from the id of each variable to a float array of shape (channels,).

    Raises:
        ValueError: If the model is not compiled with a loss, or there is no data.
    """
    if not getattr(model, "compiled", False) or model.loss is None:
        raise ValueError(
            "The gradients that criterion='taylor' needs are those of the model's loss. Call "
            f"`model.compile(loss=...)` first. Received: model={model.name!r}, not compiled"
        )
    _require_pairs(data)
    copied = rebuild(model)
    pairs = list(zip(model.trainable_variables, copied.trainable_variables, strict=True))
    collector = _Collector({id(new): axes[id(old)] for old, new in pairs if id(old) in axes})
    copied.compile(collector, loss=model.loss, loss_weights=model._compile_loss._user_loss_weights)
    arguments = data if isinstance(data, tuple) else (data,)
    copied.fit(*arguments, verbose=0)
    return {id(old): collector.mean(new) for old, new in pairs if id(old) in axes}


def _require_pairs(data: Any) -> None:
    """Raises a `ValueError` unless data are inputs and targets, as far as that can be told."""
    kind = type(data).__name__
    if isinstance(data, tuple):
        fits = len(data) == 2
        kind = f"tuple of {len(data)}"
    else:
        fits = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
        fits = fits and not hasattr(data, "shape") and not isinstance(data, (list, dict, str))
        # What a `tf.data.Dataset` holds is known beforehand.
        spec = getattr(data, "element_spec", (None, None))
        if fits and (not isinstance(spec, tuple) or len(spec) < 2):
            fits, kind = False, f"{kind} without targets"
    if not fits:
        raise ValueError(
            "criterion='taylor' needs `data`, a dataset of batches (inputs, targets) or a tuple "
            f"(inputs, targets) of arrays. Received: {'data=None' if data is None else kind}"
        )
    if isinstance(data, tuple):
        empty = not all(map(len, keras.tree.flatten(data)))
    else:
        empty = hasattr(data, "cardinality") and int(data.cardinality()) == 0
    if empty:
        raise ValueError(f"`data` has no sample. Received: data={data!r}")


class _Collector(keras.optimizers.Optimizer):
    """Looks at gradients, and changes nothing.

    It is an optimizer because that is where every backend of Keras brings gradients to.
    """

    def __init__(self, axes: dict[int, int]):
        super().__init__(learning_rate=0.0, name="collector")
        # By the id of a variable, then by its index: a step may get the backend's own variable.
        self._axes = axes
        self._axis_of: list[int | None] = []
        self._sums: list[keras.Variable | None] = []

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        for variable in variables:
            axis = self._axes.get(id(variable))
            self._axis_of.append(axis)
            made = axis is not None
            self._sums.append(self.add_variable((variable.shape[axis],)) if made else None)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        axis, total = self._axis_of[index], self._sums[index]
        if axis is None:
            return
        product = ops.cast(gradient, "float32") * ops.cast(variable, "float32")
        others = [i for i in range(len(variable.shape)) if i != axis]
        self.assign_add(total, ops.square(ops.sum(product, axis=others)))

    def mean(self, variable: keras.Variable) -> np.ndarray:
        """Returns the mean over the batches seen."""
        total = self._sums[self._get_variable_index(variable)]
        seen = ops.convert_to_numpy(self.iterations)
        return ops.convert_to_numpy(total) / max(int(seen), 1)
