"""What TF-MOT's default 8-bit scheme can quantize, told before it is tried."""

from typing import Any

# Taken apart by the scheme into layers that it can quantize.
_SPLIT = ("SeparableConv1D", "SeparableConv2D")
_FUSED_ACTIVATIONS = frozenset("gelu linear relu sigmoid softmax swish tanh".split())
# What the scheme folds a normalization into, and what it takes between the two.
_BEFORE_NORM = ("Conv2D", "Dense", "DepthwiseConv2D", *_SPLIT)


def reasons(model: Any, registry: Any) -> dict[str, str]:
    """Returns why layers cannot be quantized, by their names; the others can.

    Args:
        model: A flat tf_keras model.
        registry: The `QuantizeRegistry` of the scheme.
    """
    found = {}
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        if reason := _reason(layer, registry):
            found[layer.name] = reason
    return found


def _reason(layer: Any, registry: Any) -> str | None:
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        return _norm_reason(layer)
    if kind in _SPLIT:
        if kind == "SeparableConv1D" and layer.padding == "causal":
            return "TF-MOT cannot take a causal one apart"
    elif not registry.supports(layer):
        return "TF-MOT's 8-bit scheme does not know this type"
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    if activation is not None and name not in _FUSED_ACTIVATIONS:
        return f"TF-MOT's 8-bit scheme does not know the activation '{name}'"
    return None


def _norm_reason(layer: Any) -> str | None:
    before = _only_producer(layer)
    if before is None or type(before).__name__ not in _BEFORE_NORM:
        what = "nothing" if before is None else f"a {type(before).__name__}"
        return f"it must follow a convolution or Dense layer of its own, and follows {what}"
    if before.activation.__name__ != "linear":
        return f"the layer before it, '{before.name}', has an activation"
    if len(before.outbound_nodes) > 1 or len(before.inbound_nodes) > 1:
        return f"the layer before it, '{before.name}', is used elsewhere too"
    return None


def _only_producer(layer: Any) -> Any | None:
    if len(layer.inbound_nodes) != 1:
        return None
    producer = layer.inbound_nodes[0].inbound_layers
    return None if isinstance(producer, list) else producer
