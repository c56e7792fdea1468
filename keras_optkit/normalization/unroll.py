"""The blocks of this package as plain Keras layers, for inference."""

from collections.abc import Callable
from typing import Any

from keras import layers

from keras_optkit.normalization.fold_weights import LinearWeights
from keras_optkit.normalization.linear_layers import (
    activation_layer,
    changed_linear,
    copy_with_weights,
)
from keras_optkit.normalization.norm_act import NormAct
from keras_optkit.normalization.residual_bn_block import ResidualBNBlock


def is_block(operation: Any) -> bool:
    """Tells whether an operation is a block that can be unrolled."""
    return isinstance(operation, (NormAct, ResidualBNBlock))


def norm_act_parts(block: NormAct | ResidualBNBlock) -> list[NormAct]:
    """Returns each linear layer with its norm and activation that a block holds."""
    if isinstance(block, NormAct):
        return [block]
    return [p for p in [*block._branch, block._shortcut] if isinstance(p, NormAct)]


def unroll(block: NormAct | ResidualBNBlock, weights: list[LinearWeights]) -> list[Callable]:
    """Returns what takes the place of a block; the last layer has the block's name.

    Args:
        block: The block, built.
        weights: For each of `norm_act_parts(block)`, the weights with the norm folded into them.
    """
    folded = dict(zip(map(id, norm_act_parts(block)), weights, strict=True))
    if isinstance(block, NormAct):
        return _chain(block, block.name, folded)
    parts = [p for p in [*block._branch, block._shortcut] if p is not None]
    chains = {id(part): _chain(part, f"{block.name}_{part.name}", folded) for part in parts}
    policy = block.dtype_policy
    before, behind, add_name = [], [], block.name
    if block.version == 1:
        add_name = f"{block.name}_add"
        behind = [activation_layer(block.activation, block.name, policy)]
    else:
        if block._pre_norm is not None:
            before = [copy_with_weights(block._pre_norm, f"{block.name}_pre_norm")]
        name = f"{block.name}_pre_activation"
        before.append(activation_layer(block._pre_activation, name, policy))
    add = layers.Add(name=add_name, dtype=policy)

    def call(inputs):
        x = _through(before, inputs)
        shortcut = inputs
        if block._shortcut is not None:
            shortcut = _through(chains[id(block._shortcut)], x)
        for part in block._branch:
            x = _through(chains[id(part)], x)
        return _through(behind, add([shortcut, x]))

    return [call]


def _chain(part: layers.Layer, name: str, folded: dict[int, LinearWeights]) -> list[layers.Layer]:
    """A linear layer or a block around one, as plain layers of which the last has the name."""
    if id(part) not in folded:
        return [copy_with_weights(part, name)]
    weights = folded[id(part)]
    own = isinstance(part.activation, layers.Layer)
    linear = changed_linear(
        part._linear,
        weights.kernels,
        weights.bias,
        name=f"{name}_{part._linear.name}" if own else name,
        activation=None if own else part.activation,
        trainable=part.trainable,
    )
    return [linear, copy_with_weights(part.activation, name)] if own else [linear]


def _through(chain: list[Callable], x: Any) -> Any:
    for part in chain:
        x = part(x)
    return x
