import keras
import numpy as np
import pytest

from keras_optkit.callbacks import Pruning
from keras_optkit.pruning import OneShot, keep_zeros


def zeros(model):
    return [keras.ops.convert_to_numpy(v) == 0 for v in model.trainable_variables[::2]]


@pytest.fixture
def pruned(make_model, toy):
    model = make_model(keras.optimizers.AdamW(0.05))
    model.fit(*toy, verbose=0, callbacks=[Pruning(OneShot(0.5))])
    return model


def test_zeros_hold_after_every_step_and_other_weights_move(pruned, toy):
    before, weights = zeros(pruned), pruned.get_weights()

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            for old, new in zip(before, zeros(self.model), strict=True):
                np.testing.assert_array_equal(old, new)

    callbacks = [Watch(), keep_zeros(pruned)]
    history = pruned.fit(*toy, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
    assert history.history["sparsity"] == [0.5, 0.5]
    assert not np.array_equal(weights[0], pruned.get_weights()[0])


def test_nothing_stays_on_the_model(pruned, toy, tmp_path):
    variables = len(pruned.optimizer.variables)
    pruned.fit(*toy, verbose=0, callbacks=[keep_zeros(pruned)])
    assert len(pruned.optimizer.variables) == variables
    pruned.save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras").fit(*toy, verbose=0)
    pruned.fit(*toy, verbose=0)
    assert all(mask.mean() < 0.5 for mask in zeros(pruned))


def test_a_kernel_that_starts_at_zero_is_left_free(pruned, toy):
    head = pruned.layers[1].kernel
    head.assign(np.zeros(head.shape))
    pruned.fit(*toy, verbose=0, callbacks=[keep_zeros(pruned)])
    first, second = zeros(pruned)
    assert first.mean() == 0.5 and second.mean() < 0.5


def test_a_model_without_zeros(make_model):
    with pytest.raises(ValueError, match="no zeros to keep.*Received: select=None.*kernel"):
        keep_zeros(make_model("adam"))
