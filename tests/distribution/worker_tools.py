"""What the workers share: the model of most checks, and how they write down what they find."""

import traceback

import keras
import numpy as np
from distribution_cases import dense, difference, sgd

L = keras.layers


def compiled(scope, make=dense, optimizer=None, **kwargs):
    """Returns a model that is the same in every call, compiled in a scope."""
    keras.utils.set_random_seed(3)
    with scope():
        model = make()
        model.compile(**{"optimizer": (optimizer or sgd())(), "loss": "mse", **kwargs})
    return model


def dropped(scope, samples):
    """How often each input was dropped, by the gradient of a kernel on inputs of one."""

    def make():
        drop = L.Dropout(0.5, seed=1)
        head = L.Dense(1, use_bias=False, kernel_initializer="ones")
        return keras.Sequential([keras.Input((500,)), drop, head])

    def kernel():
        rate = {"optimizer": lambda: keras.optimizers.SGD(1.0), "loss": lambda y, out: out}
        model = compiled(scope, make, **rate)
        model.fit(np.ones((samples, 500)), np.ones((samples, 1)), batch_size=samples, verbose=0)
        return 1 - model.get_weights()[0]

    first = kernel()
    return {
        "dropped: values": sorted({round(float(v), 3) for v in first.ravel()}),
        "dropped: again": difference(first, kernel()),
    }


def told(call):
    """Returns the message of what a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def collected(checks, go_on=True):
    """Returns what the checks found together, and of those that failed, where.

    Args:
        checks: Functions that return what they found, by name.
        go_on: Whether the others can still run when one has failed.
    """
    found = {}
    for check in checks:
        try:
            found.update(check())
        except Exception:
            found[check.__name__] = failure()
            if not go_on:
                break
    return found


def failure():
    """Returns where the exception that is handled comes from, the end of it."""
    return traceback.format_exc(limit=-5)[-2500:]
