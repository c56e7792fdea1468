import os
import subprocess
import sys

import pytest

CHECK = """
import os
import keras
import tensorflow as tf
import keras_optkit.tfmot as bridge

def state():
    return dict(os.environ), keras.Model.__module__, keras.backend.backend(), keras.config.floatx()

if {touch_first}:
    assert tf.keras.Model.__module__.startswith("keras.")
before = state()
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
model.compile("sgd", "mse")
data = (keras.ops.convert_to_numpy(keras.ops.ones((8, 4))), keras.ops.zeros((8, 3)))
if {fails}:
    class Stop(Exception):
        pass
    import tf_keras
    class Break(tf_keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise Stop
    try:
        bridge.prune_low_magnitude(model, data, callbacks=[Break()])
    except Stop:
        print("stopped")
else:
    bridge.prune_low_magnitude(model, data)
assert state() == before, "the process was changed"
assert tf.keras.Model.__module__.startswith("keras."), tf.keras.Model.__module__
assert tf.compat.v1.keras.layers.Dense.__module__.startswith("keras.")
from tensorflow.keras import layers
assert layers.Dense is keras.layers.Dense
# A child of this process gets the same Keras.
assert "TF_USE_LEGACY_KERAS" not in os.environ
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


@pytest.mark.parametrize("touch_first, fails", [(True, False), (False, False), (False, True)])
def test_the_process_is_left_as_it_was(touch_first, fails):
    printed = run(CHECK.format(touch_first=touch_first, fails=fails))
    assert "as it was" in printed
    assert ("stopped" in printed) == fails


def test_who_wants_legacy_keras_keeps_it():
    code = (
        "import os, keras, keras_optkit.tfmot as bridge;"
        "bridge.to_tf_keras(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]));"
        "from keras_optkit.compression.tfmot import modules; modules.tfmot();"
        "import tensorflow as tf;"
        "print(os.environ['TF_USE_LEGACY_KERAS'], tf.keras.Model.__module__)"
    )
    assert run(code, TF_USE_LEGACY_KERAS="1").split()[-2:] == ["1", "tf_keras.src.engine.training"]


def test_importing_the_bridge_imports_nothing_heavy():
    code = (
        "import sys, os, keras; before = set(sys.modules), dict(os.environ);"
        "import keras_optkit.tfmot;"
        "print([m for m in ('tf_keras', 'tensorflow_model_optimization') if m in sys.modules],"
        " 'tensorflow' in set(sys.modules) - before[0], dict(os.environ) == before[1])"
    )
    assert run(code).split() == ["[]", "False", "True"]


def test_tfmot_knows_the_recurrent_cells_of_tf_keras():
    # It looks for them in `tf.compat`, which must be tf_keras while it is imported.
    from keras_optkit.compression.tfmot import modules

    modules.tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import (
        PruneRegistry,
    )

    assert PruneRegistry.supports(modules.tf_keras().layers.LSTM(3))
