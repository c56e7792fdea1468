"""A model whose weights are split between devices."""

import math
from collections.abc import Sequence

import keras

from keras_optkit.core.checks import check_count
from keras_optkit.distribution.devices import resolve_devices
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.environment import check_one_process
from keras_optkit.distribution.sharded import Sharded
from keras_optkit.distribution.split_axis import split_axis


def model_parallel(
    devices: int | Sequence[str] | None = None, parts: int | None = None, min_size: int = 1024
) -> Distribution:
    """Returns a distribution that splits the weights of a model, for one too large for a device.

    Which weight is split along which axis is decided when the weight is made, from its layer and
    its shape: `distribution.layout_map` has it, and `describe()` tells it. What a device really
    holds, with the optimizer's state, `memory_per_device(model)` counts. Results are those of one
    device, up to rounding. It works on the jax backend; on tensorflow, `place_layers` puts whole
    layers on devices.

    Args:
        devices: The number of devices, their names, or `None` for all of the fastest kind.
        parts: Integer, into how many parts a weight is split. Fewer than there are devices make
            groups of them that share the batch. `None` for as many as there are devices.
        min_size: Integer >= 0, weights of fewer numbers stay whole on each device.

    Returns:
        A `Distribution`, in whose scope the model is built and compiled.

    Raises:
        ValueError: If the backend cannot do this, a device does not exist, or `parts` does not
            divide their number.

    Example:

    ```python
    distribution = keras_optkit.distribution.model_parallel(4)
    with distribution.scope():
        model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(4096)])
        model.compile("adam", "mse")
    print(distribution.describe())
    ```
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "Weights can be split on the jax backend only; on tensorflow `place_layers` puts whole "
            "layers on devices. Received: the "
            f"{keras.backend.backend()} backend"
        )
    check_one_process()
    names = resolve_devices(devices)
    parts = len(names) if parts is None else parts
    if not isinstance(parts, int) or parts < 1 or len(names) % parts:
        raise ValueError(
            f"`parts` must divide the number of devices, {len(names)}. Received: parts={parts!r}"
        )
    return SplitWeights(names, parts, check_count("min_size", min_size))


class SplitWeights(Sharded):
    """Devices of JAX each of which holds a part of the weights.

    Args:
        devices: List of strings such as `"gpu:0"`, which exist.
        parts: Integer, into how many parts a weight is split.
        min_size: Integer, weights of fewer numbers stay whole.
    """

    def __init__(self, devices: Sequence[str], parts: int, min_size: int):
        super().__init__(devices)
        self.parts = parts
        shape = (len(self.devices) // parts, parts)
        mesh = keras.distribution.DeviceMesh(shape, ["batch", "model"], self.devices)
        self.layout_map = keras.distribution.LayoutMap(mesh)
        self.distribution = _layout_by_layer(self.layout_map, parts, min_size)

    @property
    def num_devices(self) -> int:
        """How many groups of devices share a batch."""
        return len(self.devices) // self.parts

    @property
    def bytes_per_device(self) -> int:
        """How many bytes of the model's weights each device holds."""
        return sum(
            math.prod(shape) * size // (self.parts if axis is not None else 1)
            for shape, axis, size in self.distribution.chosen.values()
        )

    def describe(self) -> str:
        """Returns a few lines on the devices, the weights, and how they are split."""
        chosen = self.distribution.chosen
        lines = [
            f"{len(self.devices)} devices: {', '.join(self.devices)}",
            f"Engine: keras.distribution.ModelParallel, weights in {self.parts} parts",
        ]
        if chosen:
            whole = sum(math.prod(shape) * size for shape, _, size in chosen.values())
            lines.append(
                f"Weights: {whole:,} bytes, of which a device has {self.bytes_per_device:,}"
            )
        for path, (shape, axis, _) in chosen.items():
            how = "whole" if axis is None else f"split along axis {axis}"
            lines.append(f"{path} {tuple(shape)}: {how}")
        return "\n".join(lines)


def _layout_by_layer(layout_map, parts: int, min_size: int):
    """Returns a `keras.distribution.ModelParallel` that fills its layout map by itself."""

    class LayoutByLayer(keras.distribution.ModelParallel):
        def __init__(self):
            super().__init__(layout_map=layout_map, batch_dim_name="batch")
            self.chosen = {}

        def get_variable_layout(self, variable):
            given = getattr(variable, "_layout", None)
            if given is not None:
                return given
            path, shape = variable.path, tuple(variable.shape)
            layer, _, kind = path.rpartition("/")
            kernel = self.chosen.get(f"{layer}/kernel")
            axis = None
            if kind == "bias" or math.prod(shape) >= min_size:
                axis = split_axis(path, shape, parts, kernel and kernel[:2])
            if variable.trainable:
                size = keras.backend.standardize_dtype(variable.dtype)
                self.chosen[path] = (shape, axis, _BYTES.get(size, 4))
            axes = tuple("model" if i == axis else None for i in range(len(shape)))
            layout = keras.distribution.TensorLayout(axes, self.device_mesh)
            if axis is not None and path not in set(layout_map):
                layout_map[path] = layout
            return layout

    return LayoutByLayer()


_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
