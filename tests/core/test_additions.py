import keras
import numpy as np
import pytest

from keras_optkit.core.additions import (
    add_variables,
    after_update,
    drive_learning_rate,
    drive_momentum,
    learning_rate_at,
    scale_learning_rate,
)
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.optimizer import require_compiled


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


@pytest.mark.parametrize("scaled", [False, True])
def test_a_file_saved_in_mid_run_holds_nothing_of_it(make_model, toy, tmp_path, scaled):
    path = str(tmp_path / "mid.keras")

    class Saves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(path)

    model = make_model()
    if scaled:
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), model.loss)
    model.fit(*toy, verbose=0, callbacks=[Adds(), Saves()])
    assert methods(model.optimizer) == set()
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


class Momentum(OptkitCallback):
    """Halves the way of the momentum to 1 with each update."""

    def _install(self, epoch, state):
        optimizer = require_compiled(self.model, "Momentum")
        drive_momentum(optimizer, momentum_at, self._fit_scope)


def momentum_at(update):
    return 1 - 0.5 ** (keras.ops.cast(update, "float32") + 1)


GRADIENTS = np.array([[1.0], [2.0], [-1.5], [0.5]], "float32")


def train(optimizer, callbacks=(), **kwargs):
    """Trains one weight with the gradients above; returns it after each update."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((1, 1), "float32")])
    model.compile(optimizer, lambda y, y_pred: y_pred, **kwargs)
    seen = []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(keras.ops.convert_to_numpy(self.model.weights[0])[0, 0]))

    model.fit(
        *(GRADIENTS, GRADIENTS),
        batch_size=1,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, Keep()],
    )
    return seen


def step_by_hand(optimizer, name):
    """What the optimizer does where its momentum is assigned before each eager update."""
    weight = keras.Variable(np.ones((1, 1), "float32"))
    optimizer.build([weight])
    seen = []
    for update, gradient in enumerate(GRADIENTS):
        setattr(optimizer, name, 1 - 0.5 ** (update + 1))
        optimizer.apply([keras.ops.reshape(gradient, (1, 1))], [weight])
        seen.append(float(keras.ops.convert_to_numpy(weight)[0, 0]))
    return seen


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.6),
    "Nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.6, nesterov=True),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.6),
    "Adam": lambda: keras.optimizers.Adam(0.1),
    "AdamW": lambda: keras.optimizers.AdamW(0.1),
    "Adamax": lambda: keras.optimizers.Adamax(0.1),
    "Nadam": lambda: keras.optimizers.Nadam(0.1),
    "Lamb": lambda: keras.optimizers.Lamb(0.1),
    "Lion": lambda: keras.optimizers.Lion(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_driven_momentum_is_that_of_the_update(name):
    optimizer, reference = OPTIMIZERS[name](), OPTIMIZERS[name]()
    attribute = "beta_1" if hasattr(optimizer, "beta_1") else "momentum"
    own = getattr(optimizer, attribute)
    seen = train(optimizer, [Momentum()])
    np.testing.assert_allclose(seen, step_by_hand(reference, attribute), rtol=1e-5)
    assert getattr(optimizer, attribute) == own
    if name not in ("Lamb", "Lion"):  # whose steps for one weight have one size
        assert not np.allclose(seen, train(OPTIMIZERS[name]()))


@pytest.mark.backends("tensorflow", "jax")
def test_a_driven_momentum_under_xla():
    optimizer = OPTIMIZERS["SGD"]()
    seen = train(optimizer, [Momentum()], jit_compile=True)
    np.testing.assert_allclose(seen, step_by_hand(OPTIMIZERS["SGD"](), "momentum"), rtol=1e-5)


def test_a_driven_beta_equals_torch():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    reference, seen = torch.optim.Adam([weight], 0.1), []
    for update, gradient in enumerate(GRADIENTS):
        reference.param_groups[0]["betas"] = (1 - 0.5 ** (update + 1), 0.999)
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        reference.step()
        seen.append(weight.item())
    # Keras adds epsilon in another place.
    np.testing.assert_allclose(train(OPTIMIZERS["Adam"](), [Momentum()]), seen, rtol=1e-4)


def test_no_momentum_to_drive_is_told(make_model, toy):
    for optimizer in (keras.optimizers.SGD(0.1), keras.optimizers.Adagrad(0.1)):
        with pytest.raises(ValueError, match=r"SGD\(momentum=0.9\)"):
            make_model(optimizer).fit(*toy, verbose=0, callbacks=[Momentum()])


class Scales(OptkitCallback):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def _install(self, epoch, state):
        optimizer = require_compiled(self.model, "Scales")
        scale_learning_rate(optimizer, lambda rate, update: rate * self.factor, self._fit_scope)
        self.optimizer = optimizer

    def on_epoch_end(self, epoch, logs=None):
        logs["rate"] = learning_rate_at(self.optimizer, 2)


@pytest.mark.parametrize(
    "own", [0.5, keras.optimizers.schedules.PiecewiseConstantDecay([1], [9.0, 0.5])]
)
def test_scales_multiply_whatever_rate_is_there(make_model, toy, own):
    model = make_model(keras.optimizers.SGD(own))
    model.fit(*toy, verbose=0)
    history = model.fit(*toy, verbose=0, callbacks=[Scales(0.5), Scales(0.1)])
    assert history.history["rate"] == [pytest.approx(0.025)]
    assert learning_rate_at(model.optimizer, 2) == pytest.approx(0.5)
    assert methods(model.optimizer) == set()


def test_scales_reach_the_step(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.5))
    before = [keras.ops.convert_to_numpy(w) for w in model.trainable_variables]
    model.fit(*toy, verbose=0, callbacks=[Scales(0.0)])
    for a, b in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(b))
