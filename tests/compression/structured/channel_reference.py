"""Models without some channels, computed without this package: the channels are set to zero."""

import keras
import numpy as np

from keras_optkit.normalization import recalibrate_batch_norm


def randomize(model, images, seed=0):
    """Gives a model random weights with which its outputs still depend on the images.

    The shifts of its norms are zero. So a norm hands on a channel of zeros as zeros, and what
    leaves can be told from the layers that make channels alone.

    Args:
        model: The model.
        images: Array, a batch on which the norms get their statistics.
        seed: Integer.
    """
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        depthwise = "Depthwise" in type(layer).__name__
        for variable in layer._trainable_variables:
            name, shape = variable.name, variable.shape
            if name == "gamma":
                variable.assign(rng.uniform(0.5, 1.5, shape))
            elif name in ("beta", "bias"):
                variable.assign(rng.normal(0, 0.1, shape) * (name == "bias"))
            else:
                # He's scale, else the images are gone behind twenty layers.
                inputs = shape[:-2] if depthwise or name == "depthwise_kernel" else shape[:-1]
                variable.assign(rng.normal(0, np.sqrt(2.0 / np.prod(inputs)), shape))
    norms = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if norms:
        recalibrate_batch_norm(model, images)
    for norm in norms:
        mean = keras.ops.convert_to_numpy(norm.moving_mean)
        norm.moving_variance.assign(keras.ops.convert_to_numpy(norm.moving_variance) + mean**2)
        norm.moving_mean.assign(np.zeros_like(mean))


def set_to_zero(model, stayed):
    """Sets the channels that a report does not list as left to zero where they are made."""
    for layer in model._flatten_layers(include_self=False):
        variables = {variable.name: variable for variable in layer._trainable_variables}
        for name, variable in variables.items():
            path = variable.path.rsplit("/", 1)[0].removeprefix(f"{model.name}/")
            left = stayed.get(path)
            if left is None or not ("kernel" in name or name == "bias"):
                continue
            value = np.array(keras.ops.convert_to_numpy(variable))
            if name == "depthwise_kernel" and "pointwise_kernel" in variables:
                continue
            depthwise = "Depthwise" in type(layer).__name__ and name != "bias"
            transposed = "Transpose" in type(layer).__name__ and name != "bias"
            axis = value.ndim - 2 if depthwise or transposed else value.ndim - 1
            if depthwise and layer.depth_multiplier > 1:
                raise NotImplementedError
            gone = np.setdiff1d(np.arange(value.shape[axis]), left)
            index = [slice(None)] * value.ndim
            index[axis] = gone
            value[tuple(index)] = 0
            variable.assign(value)
