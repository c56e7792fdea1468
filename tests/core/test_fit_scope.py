import keras
import pytest

from keras_optkit.core.fit_scope import FitScope, owners


class Owner(keras.callbacks.Callback):
    pass


def test_changes_are_undone_last_first(make_model):
    model = make_model()
    scope = FitScope(model, Owner())
    order = []
    scope.on_close(lambda: order.append("first"))
    scope.on_close(lambda: order.append("second"))
    scope.close()
    scope.close()
    assert order == ["second", "first"]


def test_owners_are_those_of_open_scopes(make_model):
    model, one, two = make_model(), Owner(), Owner()
    scopes = [FitScope(model, one), FitScope(model, two)]
    assert owners(model) == [one, two]
    scopes[0].close()
    assert owners(model) == [two]
    scopes[1].close()
    assert owners(model) == []
    assert "make_train_function" not in vars(model)


def test_a_fit_that_broke_is_cleaned_up_by_the_next(make_model, toy):
    model = make_model()
    undone = []

    class Opens(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            FitScope(self.model, self).on_close(lambda: undone.append(True))

        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(*toy, verbose=0, callbacks=[Opens()])
    assert undone == []
    model.fit(*toy, verbose=0)
    assert undone == [True]
    assert "make_train_function" not in vars(model)


def test_a_callback_that_rebuilds_the_step_in_mid_run_undoes_nothing(make_model, toy):
    model = make_model()
    seen = []

    class Rebuilds(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.scope = FitScope(self.model, self)
            self.scope.on_close(lambda: None)

        def on_epoch_end(self, epoch, logs=None):
            self.model.make_train_function(force=True)
            seen.append(self.scope.changed)

        def on_train_end(self, logs=None):
            self.scope.close()

    model.fit(*toy, epochs=2, verbose=0, callbacks=[Rebuilds()])
    assert seen == [True, True]
