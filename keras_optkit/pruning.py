"""Pruning: schedules and structures for `callbacks.Pruning`, tables, and whole channels."""

from keras_optkit.compression.pruning.block_sparsity import BlockSparsity
from keras_optkit.compression.pruning.cubic_with_warmup import CubicWithWarmup
from keras_optkit.compression.pruning.keep_zeros import keep_zeros
from keras_optkit.compression.pruning.nm_sparsity import NMSparsity
from keras_optkit.compression.pruning.one_shot import OneShot
from keras_optkit.compression.pruning.schedules import ConstantSparsity, PolynomialDecay
from keras_optkit.compression.pruning.sensitivity import sensitivity
from keras_optkit.compression.pruning.sparsity_table import sparsity
from keras_optkit.compression.structured.prune_channels import prune_channels

__all__ = [
    "BlockSparsity",
    "ConstantSparsity",
    "CubicWithWarmup",
    "NMSparsity",
    "OneShot",
    "PolynomialDecay",
    "keep_zeros",
    "prune_channels",
    "sensitivity",
    "sparsity",
]
