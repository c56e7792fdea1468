"""Pruning: schedules of sparsity for `keras_optkit.callbacks.Pruning`."""

from keras_optkit.compression.pruning.schedules import ConstantSparsity, PolynomialDecay

__all__ = ["ConstantSparsity", "PolynomialDecay"]
