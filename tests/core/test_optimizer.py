import keras
import numpy as np
import pytest

from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.optimizer import (
    add_variables,
    after_update,
    drive_learning_rate,
    require_compiled,
)


class Adds(OptkitCallback):
    """Counts updates in a variable that only the compiled step writes."""

    def _install(self, epoch, state):
        optimizer = require_compiled(self.model, "Adds")
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        (self.count,) = add_variables(
            self.model, optimizer, [()], "int32", "zeros", "count", self._fit_scope
        )
        after_update(optimizer, lambda: self.count.assign(self.count + 1), self._fit_scope)

    def on_epoch_end(self, epoch, logs=None):
        logs["count"] = int(keras.ops.convert_to_numpy(self.count))


def methods(optimizer):
    return {"apply", "save_own_variables", "_get_current_learning_rate"} & set(vars(optimizer))


def test_an_action_runs_in_the_step_once_per_update(make_model, toy):
    model = make_model()
    history = model.fit(*toy, batch_size=16, epochs=3, verbose=0, callbacks=[Adds()])
    assert history.history["count"] == [4, 8, 12]


def test_two_actions_and_either_order_of_closing(make_model, toy):
    model = make_model()
    one, two = Adds(), Adds()
    model.fit(*toy, batch_size=16, verbose=0, callbacks=[one, two])
    assert methods(model.optimizer) == set()
    model.fit(*toy, batch_size=16, verbose=0, callbacks=[two, one])
    assert methods(model.optimizer) == set()


def test_a_method_that_was_shadowed_already_is_called_and_comes_back(make_model, toy):
    model, calls = make_model(run_eagerly=True), []
    own = model.optimizer.apply

    def counting(grads, trainable_variables=None):
        calls.append(1)
        return own(grads, trainable_variables)

    model.optimizer.apply = counting
    model.fit(*toy, batch_size=16, verbose=0, callbacks=[Adds()])
    assert calls
    assert model.optimizer.apply is counting


def test_the_optimizer_is_as_it_was_after_fit(make_model, toy):
    model = make_model()
    model.fit(*toy, verbose=0)
    names = [v.path for v in model.optimizer.variables]
    model.fit(*toy, verbose=0, callbacks=[Adds()])
    assert [v.path for v in model.optimizer.variables] == names
    assert methods(model.optimizer) == set()


def test_a_file_saved_in_mid_run_holds_nothing_of_it(make_model, toy, tmp_path):
    path = str(tmp_path / "mid.keras")

    class Saves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(path)

    model = make_model()
    model.fit(*toy, verbose=0, callbacks=[Adds(), Saves()])
    loaded = keras.models.load_model(path)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )


def test_two_drivers_of_one_rate_are_refused(make_model, toy):
    class Drives(OptkitCallback):
        def _install(self, epoch, state):
            optimizer = require_compiled(self.model, "Drives")
            drive_learning_rate(optimizer, lambda update: 0.1, self._fit_scope)

    model = make_model()
    with pytest.raises(ValueError, match="Two callbacks set the learning rate"):
        model.fit(*toy, verbose=0, callbacks=[Drives(), Drives()])
    model.fit(*toy, verbose=0)
    assert methods(model.optimizer) == set()


def test_an_uncompiled_model_is_told():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"model.compile\(optimizer"):
        require_compiled(model, "Pruning")
