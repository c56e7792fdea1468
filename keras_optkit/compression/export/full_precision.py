"""A model that computes in half precision, rebuilt in float32; the user's own is not touched."""

from typing import Any

import keras

from keras_optkit.compression.export.signature import HALF

_HALF_POLICIES = (*HALF, *(f"mixed_{dtype}" for dtype in HALF))


def half_precision(model: keras.Model) -> str | None:
    """Returns the half-precision dtype that some layer computes in, or `None`."""
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()}
    return next((dtype for dtype in HALF if dtype in dtypes), None)


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model itself, or where it computes in half precision a float32 copy of it."""
    if half_precision(model) is None:
        return model
    with keras.saving.custom_object_scope({cls.__name__: cls for cls in own_classes(model)}):
        copy = type(model).from_config(_widen(model.get_config()))
    for layer in copy._flatten_layers():
        # A layer inside a layer may have taken the global policy instead of the config's.
        if layer.dtype_policy.quantization_mode is None:
            layer.dtype_policy = "float32"
    originals, copies = list(model._flatten_layers()), list(copy._flatten_layers())
    for original, twin in zip(originals, copies, strict=True):
        # Unlike `set_weights`, this also restores what a layer derives from its variables, as
        # `Normalization` does.
        store: dict = {}
        original.save_own_variables(store)
        twin.load_own_variables({k: keras.ops.convert_to_numpy(v) for k, v in store.items()})
    return copy


def own_classes(model: keras.Model) -> list[type]:
    """Returns the classes of the model's layers that are not Keras' own."""
    classes = dict.fromkeys(type(layer) for layer in model._flatten_layers())
    return [cls for cls in classes if cls.__module__.split(".")[0] != "keras"]


def _widen(config: Any) -> Any:
    """Returns a config with float32 in place of every half-precision dtype or policy."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return _widen(config["config"]["name"])
        return {key: _widen(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(map(_widen, config))
    return "float32" if config in _HALF_POLICIES else config
