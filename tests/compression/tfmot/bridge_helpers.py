"""What several tests of the bridge look at."""

import keras


def kernels(model):
    """The kernels of a Keras 3 model as arrays, by the names of their layers."""
    return {
        layer.name: keras.ops.convert_to_numpy(layer.kernel)
        for layer in model._flatten_layers()
        if hasattr(layer, "kernel")
    }
