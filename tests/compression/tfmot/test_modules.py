import os
import subprocess
import sys

import pytest

CHECK = """
import os, sys
import keras
before_imports = set(sys.modules), dict(os.environ)
import keras_optkit.tfmot as bridge
assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
assert "tensorflow" not in set(sys.modules) - before_imports[0]
assert dict(os.environ) == before_imports[1]

import tensorflow as tf
import tf_keras

def look():
    assert (dict(os.environ), keras.Model.__module__) == before, "the process was changed"
    if touched:
        assert tf.keras.Model.__module__.startswith("keras."), tf.keras.Model.__module__

class Stop(Exception):
    pass

class Break(tf_keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        raise Stop

touched = TOUCH_FIRST
before = dict(os.environ), keras.Model.__module__
look()
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
model.compile("sgd", "mse")
data = (keras.ops.ones((8, 4)), keras.ops.zeros((8, 3)))
try:
    bridge.prune_low_magnitude(model, data, callbacks=[Break()])
except Stop:
    look()
    print("stopped")
bridge.prune_low_magnitude(model, data)
touched = True
look()
assert tf.compat.v1.keras.layers.Dense.__module__.startswith("keras.")
from tensorflow.keras import layers
assert layers.Dense is keras.layers.Dense
print("as it was")
"""


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("touch_first", [True, False])
def test_the_process_is_left_as_it_was(touch_first):
    printed = run(CHECK.replace("TOUCH_FIRST", str(touch_first)))
    assert printed.split() == ["stopped", "as", "it", "was"]


@pytest.mark.backends("tensorflow")
def test_who_wants_legacy_keras_keeps_it():
    code = (
        "import os, keras, keras_optkit.tfmot as bridge;"
        "bridge.to_tf_keras(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]));"
        "from keras_optkit.compression.tfmot import modules; modules.tfmot();"
        "import tensorflow as tf;"
        "print(os.environ['TF_USE_LEGACY_KERAS'], tf.keras.Model.__module__)"
    )
    assert run(code, TF_USE_LEGACY_KERAS="1").split()[-2:] == ["1", "tf_keras.src.engine.training"]


def test_tfmot_knows_the_recurrent_cells_of_tf_keras():
    # It looks for them in `tf.compat`, which must be tf_keras while it is imported.
    from keras_optkit.compression.tfmot import modules

    modules.tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import (
        PruneRegistry,
    )

    assert PruneRegistry.supports(modules.tf_keras().layers.LSTM(3))
