"""How much a channel matters: scores of the part of a kernel that makes it."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.structured.gradients import squared_products
from keras_optkit.compression.structured.trace import Weight
from keras_optkit.core.messages import did_you_mean

Score = Callable[[np.ndarray, Weight], np.ndarray]


def l1(kernel: np.ndarray, weight: Weight | None = None) -> np.ndarray:
    """Scores by the mean absolute weight.

    Args:
        kernel: Array of shape (channels, n), the weights that make each channel.
        weight: What is known of the variable that holds them; not used.

    Returns:
        Array of shape (channels,), not negative.

    Reference:
        Li et al., "Pruning Filters for Efficient ConvNets", 2017.
    """
    return np.abs(kernel).mean(axis=1)


def l2(kernel: np.ndarray, weight: Weight | None = None) -> np.ndarray:
    """Scores by the root of the mean squared weight.

    Args:
        kernel: Array of shape (channels, n), the weights that make each channel.
        weight: What is known of the variable that holds them; not used.

    Returns:
        Array of shape (channels,), not negative.
    """
    return np.sqrt((kernel**2).mean(axis=1))


def random(seed: int | None) -> Score:
    """Returns a score that draws from [0, 1), as a base line.

    Args:
        seed: Integer, or `None`.
    """
    rng = np.random.default_rng(seed)
    return lambda kernel, weight: rng.random(len(kernel))


def gamma(kernel: np.ndarray, weight: Weight) -> np.ndarray:
    """Scores by the absolute scale of the BatchNorm behind, and by `l2` where there is none.

    A norm is behind where all that the weights make goes through it before it meets anything else.

    Args:
        kernel: Array of shape (channels, n), the weights that make each channel.
        weight: What is known of the variable that holds them.

    Returns:
        Array of shape (channels,), not negative.

    Reference:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.
    """
    scales = [norm.gamma for norm in weight.norms if norm.gamma is not None]
    if not scales:
        return l2(kernel)
    return np.mean([np.abs(keras.ops.convert_to_numpy(scale)) for scale in scales], axis=0)


def taylor(model: keras.Model, data: Any, weights: Iterable[Weight]) -> Score:
    """Returns a score of what leaving a channel out does to the loss, to first order.

    For each batch, the gradient of a weight times the weight, summed over the weights that make a
    channel; the score is the mean of the squares of these sums.

    Args:
        model: The compiled model. It stays as it is.
        data: A dataset of batches (inputs, targets), or a tuple of these two as arrays.
        weights: The variables that will be scored.

    Reference:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019, equation 8.
    """
    axes = {id(w.variable): w.makes for w in weights if w.makes is not None}
    found = squared_products(model, data, axes)
    return lambda kernel, weight: found[id(weight.variable)]


def get_criterion(
    criterion: Any, model: keras.Model, data: Any, weights: Iterable[Weight], seed: int | None
) -> Score:
    """Returns the score that a name stands for, or one of the function that was given.

    Args:
        criterion: A name, or a function of an array of shape (channels, n).
        model: The model, compiled for `"taylor"`.
        data: What `"taylor"` takes its gradients on, else not used.
        weights: The variables that will be scored.
        seed: Integer or `None`, for `"random"`.

    Raises:
        ValueError: If the name is not known, or what it needs is missing.
    """
    if callable(criterion):
        return lambda kernel, weight: criterion(kernel)
    named = {
        "l1": lambda: l1,
        "l2": lambda: l2,
        "gamma": lambda: gamma,
        "taylor": lambda: taylor(model, data, weights),
        "random": lambda: random(seed),
    }
    if criterion in named:
        return named[criterion]()
    raise ValueError(
        f"`criterion` must be one of {tuple(named)} or a function of an array of shape (channels, "
        f"n). {did_you_mean(str(criterion), tuple(named))} Received: criterion={criterion!r}"
    )
