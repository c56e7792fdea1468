"""The weights of a model as values, for what keeps the best ones."""

import keras


def weights_at_end(model: keras.Model) -> list:
    """Returns the weights that `fit` would end with if it ended now, as NumPy arrays.

    Under an optimizer with `use_ema=True` these are the averaged ones; the model keeps its own.

    Args:
        model: The compiled model.
    """
    raw = model.get_weights()
    if not getattr(model.optimizer, "use_ema", False):
        return raw
    model.optimizer.finalize_variable_values(model.trainable_weights)
    averaged = model.get_weights()
    model.set_weights(raw)
    return averaged
