"""The states of all random numbers that a training draws, as plain values."""

import random
import sys
from typing import Any

import keras
import numpy as np

from keras_optkit.core.variables import global_seed_generator


def random_state() -> dict[str, Any]:
    """Returns the states of Python, NumPy, Keras, TensorFlow and torch, as far as they are used.

    Keras' own generator is the one behind layers and initializers without a seed. TensorFlow's is
    the one behind operations that are called outside of functions.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, np.array(words, "uint32"), gauss],
        "numpy": [name, keys, position, has_gauss, cached],
    }
    generator = global_seed_generator()
    if generator is not None:
        state["keras"] = np.array(keras.ops.convert_to_numpy(generator.state))
    tensorflow = _tensorflow_generator()
    if tensorflow is not None:
        version, words, gauss = tensorflow.getstate()
        state["tensorflow"] = [version, np.array(words, "uint32"), gauss]
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available():
            state["cuda"] = [each.numpy() for each in torch.cuda.get_rng_state_all()]
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Goes on with the random numbers where `random_state` was called."""
    if "keras" in state:
        # First: where there is none yet, it is made with a number that Python draws.
        from keras.src.random.seed_generator import global_seed_generator as made_if_missing

        made_if_missing().state.assign(state["keras"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(int(word) for word in words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys, position, has_gauss, cached))
    if "tensorflow" in state:
        generator = _tensorflow_generator()
        if generator is not None:
            version, words, gauss = state["tensorflow"]
            generator.setstate((version, tuple(int(word) for word in words), gauss))
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.from_numpy(state["torch"]))
        if torch.cuda.is_available() and "cuda" in state:
            torch.cuda.set_rng_state_all([torch.from_numpy(each) for each in state["cuda"]])


def _tensorflow_generator() -> random.Random | None:
    """What TensorFlow draws the seeds of single operations from, after `tf.random.set_seed`."""
    context = sys.modules.get("tensorflow.python.eager.context")
    return getattr(context.context(), "_rng", None) if context is not None else None
