"""tf_keras and TF-MOT, imported without a trace in the process.

TF-MOT sets `TF_USE_LEGACY_KERAS` when it is imported, and takes Keras from `tf.keras`, which
decides once and for all, at its first use, which Keras it is. So TF-MOT is imported while
`tf.keras` and its `compat` twins are tf_keras, and then all of it is put back: what had not been
decided is still open.
"""

import contextlib
import os
import sys
import threading
import types
from collections.abc import Iterator

_LOCK = threading.RLock()
_FLAG = "TF_USE_LEGACY_KERAS"


def tf_keras() -> types.ModuleType:
    """Returns the module `tf_keras`."""
    with _environment_kept():
        import tf_keras

    return tf_keras


def tfmot() -> types.ModuleType:
    """Returns TF-MOT, `tensorflow_model_optimization`, which works on `tf_keras`."""
    name = "tensorflow_model_optimization"
    with _LOCK:
        if name not in sys.modules:
            with _environment_kept(), _tf_keras_as_keras():
                import tensorflow_model_optimization  # noqa: F401
        return sys.modules[name]


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = os.environ.get(_FLAG)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_FLAG, None)
        else:
            os.environ[_FLAG] = before


@contextlib.contextmanager
def _tf_keras_as_keras() -> Iterator[None]:
    import tensorflow as tf
    import tf_keras.api._v1.keras as version_1
    import tf_keras.api._v2.keras as version_2

    places = ((tf, version_2), (tf.compat.v2, version_2), (tf.compat.v1, version_1))
    # Read from the namespace itself: asking the module would make the lazy loader decide.
    kept = [(module, vars(module)["keras"]) for module, _ in places]
    try:
        for module, ours in places:
            module.keras = ours
        yield
    finally:
        for module, before in kept:
            module.keras = before
