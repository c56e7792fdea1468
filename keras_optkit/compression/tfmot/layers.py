"""The counterpart of a layer in the other Keras: its class, and its config cleaned for it."""

import inspect
import types
from typing import Any

import keras

# Layers that have the same name on both sides and are not the same, or hold what no config tells.
_UNLIKE = {
    "Lambda": "its function is written in Python; use a layer or an operation of `keras.ops`",
    "TextVectorization": "it holds a vocabulary; apply it to the data instead",
    "StringLookup": "it holds a vocabulary; apply it to the data instead",
    "IntegerLookup": "it holds a vocabulary; apply it to the data instead",
    "Hashing": "it is computed otherwise in tf_keras; apply it to the data instead",
    "HashedCrossing": "it is computed otherwise in tf_keras; apply it to the data instead",
    "Discretization": "it is computed otherwise in tf_keras; apply it to the data instead",
    "RandomCrop": "it is computed otherwise in tf_keras; apply it to the data instead",
    "SpectralNormalization": "the one of tf_keras cannot be built where Keras 3 is installed",
}
# Keys that are called otherwise: `class: {keras: tf_keras}`.
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_ACTIVATIONS = ("activation", "recurrent_activation")
# How to compute, not what; or what follows from the graph.
_IMMATERIAL = frozenset(
    "batch_input_shape data_format dtype implementation key_shape kernel_initializer query_shape "
    "rng_type unroll use_cudnn value_shape".split()
)
_SAME_ACTIVATIONS = frozenset(
    "elu exponential gelu linear mish relu selu sigmoid softmax softplus softsign tanh".split()
)


class NoCounterpart(Exception):  # noqa: N818 - it is caught here, and is told as a ValueError
    """Why a layer, an activation or another object has none in the other Keras."""


def counterpart(layer: Any, source: types.ModuleType, target: types.ModuleType) -> Any:
    """Returns a new, unbuilt layer of one Keras that does what a layer of the other one does.

    Args:
        layer: A layer of `source`, not a model.
        source: The module that the layer is from, `keras` or `tf_keras`.
        target: The other one.

    Raises:
        NoCounterpart: If there is none; the message is the reason.
    """
    cls = type(layer)
    if cls is not getattr(source.layers, cls.__name__, None):
        raise NoCounterpart("it is no layer of Keras' own")
    return _layer(cls, layer.get_config(), source, target)


def translate(serialized: Any, source: types.ModuleType, target: types.ModuleType) -> Any:
    """Returns the object of one Keras for an object of the other one that has been serialized.

    Lists and dictionaries are walked; plain values are returned as they are.

    Args:
        serialized: What `serialize_keras_object` or a `get_config` gave.
        source: The module that it is from.
        target: The other one.

    Raises:
        NoCounterpart: If there is none; the message is the reason.
    """
    if isinstance(serialized, (list, tuple)):
        made = [translate(item, source, target) for item in serialized]
        return tuple(made) if isinstance(serialized, tuple) else made
    if getattr(serialized, "shape", None) == () and hasattr(serialized, "item"):
        # tf_keras keeps numbers as arrays.
        return serialized.item()
    if not isinstance(serialized, dict):
        return serialized
    if "class_name" not in serialized:
        return {key: translate(value, source, target) for key, value in serialized.items()}
    name, config = serialized["class_name"], serialized.get("config")
    module = serialized.get("module") or ""
    if name == "__tuple__":
        return tuple(translate(item, source, target) for item in config)
    if name == "__numpy__" or name == "__tensor__":
        return config["value"]
    if name == "function":
        raise NoCounterpart(f"the function '{config}' is no part of Keras")
    category = ".".join(module.split(".")[1:])
    if module.split(".")[0] != "keras" or not category:
        raise NoCounterpart(f"{name} is no part of Keras")
    if category == "layers":
        return _layer(_member(source, "layers", name), config, source, target)
    made_of = {
        key: policy_name(value) if key == "dtype" else translate(value, source, target)
        for key, value in (config or {}).items()
    }
    cls, given = _member(source, category, name), _member(target, category, name)
    return given(**_fitting(made_of, cls, given))


def policy_name(dtype: Any) -> str:
    """Returns the name of a dtype policy in a config.

    Raises:
        NoCounterpart: If the policy is one of quantized weights.
    """
    if isinstance(dtype, dict):
        if "Quantized" in dtype["class_name"] or dtype["class_name"] == "DTypePolicyMap":
            raise NoCounterpart(f"its dtype policy is a {dtype['class_name']}")
        dtype = dtype["config"]["name"]
    return getattr(dtype, "name", dtype)


def _layer(cls: type, config: dict, source: types.ModuleType, target: types.ModuleType) -> Any:
    name = cls.__name__
    if name in _UNLIKE:
        raise NoCounterpart(_UNLIKE[name])
    given = _member(target, "layers", name)
    renamed = _RENAMED.get(name, {})
    if target is keras:
        renamed = {new: old for old, new in renamed.items()}
    made_of = {}
    for key, value in config.items():
        if key == "dtype":
            value = policy_name(value)
        elif key in _ACTIVATIONS:
            value = _activation(value, source, target)
        elif key.endswith("_initializer"):
            value = _initializer(value, source, target)
        else:
            value = translate(value, source, target)
        if key == "axis" and target is keras and name == "BatchNormalization":
            value = value[0] if hasattr(value, "__len__") and len(value) == 1 else value
        made_of[renamed.get(key, key)] = value
    return given(**_fitting(made_of, cls, given))


def _fitting(made_of: dict[str, Any], source: type, target: type) -> dict[str, Any]:
    """Leaves out what the target does not take, if it says nothing."""
    taken, defaults = _parameters(target), _parameters(source)
    fitting = {}
    for key, value in made_of.items():
        if key in taken:
            fitting[key] = value
        elif key not in _IMMATERIAL and value and value != defaults.get(key):
            raise NoCounterpart(f"the other Keras knows no `{key}` for it, which is {value!r}")
    return fitting


def _parameters(cls: type) -> dict[str, Any]:
    """Returns the arguments of a constructor and the ones it passes on, with their defaults."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _member(module: types.ModuleType, category: str, name: str) -> Any:
    place: Any = module
    for part in category.split("."):
        place = getattr(place, part, None)
    found = getattr(place, name, None)
    if found is None:
        raise NoCounterpart(f"{module.__name__} has no {category}.{name}")
    return found


def _initializer(value: Any, source: types.ModuleType, target: types.ModuleType) -> Any:
    # The weights are carried over, so it only matters that there is one.
    try:
        return translate(value, source, target)
    except (NoCounterpart, TypeError):
        return "zeros"


def _activation(value: Any, source: types.ModuleType, target: types.ModuleType) -> Any:
    if isinstance(value, dict) and value.get("class_name") != "function":
        if value.get("module") == "keras.layers":
            return translate(value, source, target)
        value = value["config"] if isinstance(value.get("config"), str) else value["class_name"]
    if isinstance(value, dict):
        value = value["config"]
    if value is None:
        return None
    name = value.split(">")[-1]
    if name in _SAME_ACTIVATIONS:
        return name
    if name in ("silu", "swish"):
        return "swish" if target is not keras else "silu"
    if target is not keras:
        from keras_optkit.compression.tfmot.tf_keras_parts import ACTIVATIONS

        if name in ACTIVATIONS:
            return ACTIVATIONS[name]
    elif value.startswith("keras_optkit>"):
        return name
    raise NoCounterpart(f"the activation '{value}' has none")
