import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_optkit.callbacks import EarlyStopping, LearningRate, Pruning, ReduceOnPlateau
from keras_optkit.normalization import recalibrate_batch_norm
from keras_optkit.pruning import ConstantSparsity
from keras_optkit.schedules import CosineDecay
from keras_optkit.stopping.time_budget import TimeBudget
from keras_optkit.stopping.weight_averaging import WeightAveraging


class Keep(keras.callbacks.Callback):
    """Keeps the weights that a callback sees after each step and after each epoch."""

    def __init__(self, steps=True):
        super().__init__()
        self.steps, self.epochs = [], []
        if steps:
            self.on_train_batch_end = lambda batch, logs=None: self.steps.append(self.weights())

    def weights(self):
        return [keras.ops.convert_to_numpy(w).copy() for w in self.model.weights]

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.weights())


def fit(model, toy, *callbacks, epochs=4, **kwargs):
    arguments = {"batch_size": 16, "epochs": epochs, "shuffle": False, "verbose": 0, **kwargs}
    history = model.fit(*toy, callbacks=list(callbacks), **arguments).history
    json.dumps(history)
    return history


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(first, second, rtol=1e-5, atol=1e-6):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def mean(sets):
    return [np.mean(np.float64(weights), axis=0) for weights in zip(*sets, strict=True)]


def ema(sets, decay):
    average = [np.float64(weights) for weights in sets[0]]
    for weights in sets[1:]:
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    return average


def seeded(make_model, *args, **kwargs):
    keras.utils.set_random_seed(5)
    return make_model(*args, **kwargs)


# 4 steps an epoch, 4 epochs: steps[3] are the weights behind the first epoch.
CASES = [
    ({"method": "ema", "decay": 0.8}, lambda steps: ema(steps, 0.8)),
    ({"decay": 0.5, "start": "2ep", "every": 2}, lambda steps: ema(steps[7::2], 0.5)),
    ({"decay": 0.5, "every": "1ep"}, lambda steps: ema(steps[3::4], 0.5)),
    ({"method": "swa"}, lambda steps: mean(steps[11::4])),
    ({"method": "swa", "start": 6, "every": 3}, lambda steps: mean(steps[5::3])),
    ({"method": "swa", "start": 9, "every": "1ep"}, lambda steps: mean(steps[11::4])),
    ({"method": "lawa", "last": 2}, lambda steps: mean(steps[11::4])),
    ({"method": "lawa", "last": 3, "every": "2ep"}, lambda steps: mean(steps[7::8])),
    ({"method": "lawa", "last": 3, "every": 2}, lambda steps: mean(steps[11::2])),
]


# What is the same on every backend is compiled on one.
CASES[1:] = [
    pytest.param(*case, marks=() if i in (3, 6) else pytest.mark.backends("tensorflow"))
    for i, case in enumerate(CASES[1:])
]


@pytest.fixture(scope="module")
def plain():
    """The weights after each step of a run without averaging, by its settings."""
    return {}


@pytest.mark.parametrize(
    ("kwargs", "reference"), CASES, ids=lambda case: str(case) if isinstance(case, dict) else ""
)
def test_equal_to_float64_averages(make_model, toy, plain, kwargs, reference):
    if not plain:
        raw = Keep()
        fit(seeded(make_model), toy, raw)
        plain["steps"] = raw.steps
    model, seen, averaging = seeded(make_model), Keep(), WeightAveraging(**kwargs)
    fit(model, toy, seen, averaging)
    # What is trained are the weights that would be trained without.
    for ours, theirs in zip(seen.steps, plain["steps"], strict=True):
        assert_close(ours, theirs)
    assert_close(model.get_weights(), reference(plain["steps"]))
    assert_equal(model.get_weights(), seen.epochs[-1])
    assert not any(name.startswith(("_get_metrics", "evaluate", "save")) for name in vars(model))


def test_validation_and_checkpoints_in_any_order(make_model, toy, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint
    weights = []
    for name, order in (("first", slice(None)), ("last", slice(None, None, -1))):
        folder = tmp_path / name
        callbacks = [
            checkpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
            checkpoint(folder / "step{epoch}-{batch}.keras", save_freq=6),
            WeightAveraging(decay=0.8),
        ]
        model, seen = seeded(make_model), Keep(steps=False)
        history = fit(model, toy, *callbacks[order], seen, epochs=2, validation_data=toy)
        weights.append(seen.epochs)
        other = make_model()
        other.optimizer.build(other.trainable_variables)
        for epoch in (1, 2):
            other.load_weights(folder / f"{epoch}.weights.h5")
            assert_equal(other.get_weights(), seen.epochs[epoch - 1])
            loss = other.evaluate(*toy, verbose=0, return_dict=True)["loss"]
            assert loss == pytest.approx(history["val_loss"][epoch - 1], rel=1e-5)
        # The sixth step is in the middle of the second epoch.
        raw = Keep()
        fit(seeded(make_model), toy, raw, epochs=2)
        assert_close(
            keras.models.load_model(folder / "step2-2.keras").get_weights(),
            ema(raw.steps[:6], 0.8),
        )
    for first, last in zip(*weights, strict=True):
        assert_equal(first, last)


def test_without_validation_every_callback_sees_the_average(make_model, toy):
    before, behind = Keep(), Keep(steps=False)
    fit(seeded(make_model), toy, before, WeightAveraging(decay=0.8), behind)
    for ours, theirs, last in zip(before.epochs, behind.epochs, before.steps[3::4], strict=True):
        assert_equal(ours, theirs)
        assert not np.array_equal(ours[0], last[0])


@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_restores_averaged_weights(make_model, toy, first):
    stop = EarlyStopping("val_loss", patience=1, mode="max", restore_best_weights=True)
    averaging, seen = WeightAveraging(decay=0.8), Keep(steps=False)
    callbacks = [stop, averaging] if first else [averaging, stop]
    model = seeded(make_model)
    history = fit(model, toy, *callbacks, seen, validation_data=toy)
    # The loss falls, so the highest is that of the first epoch.
    assert (stop.best_epoch, len(history["loss"])) == (0, 2)
    assert_equal(model.get_weights(), seen.epochs[0])
    loss = model.evaluate(*toy, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(stop.best_value, rel=1e-5)


@pytest.mark.backends("tensorflow", "torch")
def test_whatever_stops_the_run(make_model, toy):
    class StopWithin(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    raw = Keep()
    fit(seeded(make_model), toy, raw, epochs=1)
    model = seeded(make_model)
    fit(model, toy, StopWithin(), WeightAveraging(decay=0.8))
    assert_close(model.get_weights(), ema(raw.steps[:3], 0.8))
    model, seen = seeded(make_model), Keep()
    fit(model, toy, seen, WeightAveraging(decay=0.8), TimeBudget(1e-6))
    assert len(seen.epochs) == 1
    assert_equal(model.get_weights(), seen.epochs[-1])


@pytest.mark.parametrize("order", [1, -1])
def test_zeros_stay_zeros(make_model, toy, order):
    pruning = Pruning(ConstantSparsity(0.5, begin_step=6, frequency=1))
    callbacks = [pruning, WeightAveraging(decay=0.8)][::order]
    model, seen = seeded(make_model), Keep()
    history = fit(model, toy, *callbacks, seen)
    for step, epoch in ((7, 1), (11, 2), (15, 3)):
        for raw, average in zip(seen.steps[step], seen.epochs[epoch], strict=True):
            if raw.ndim == 2:
                assert (average == 0).mean() == 0.5
                np.testing.assert_array_equal(average == 0, raw == 0)
                assert not np.array_equal(average, raw)
    assert history["sparsity"][-1] == 0.5
    # Not settled in the first epoch, so there is nothing to average yet.
    assert_equal(seen.epochs[0], seen.steps[3])


def norm_model():
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(momentum=0.5),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.2), loss)
    return model


def test_each_average_has_its_own_statistics(toy):
    raw, seen = Keep(), Keep()
    fit(norm_model(), toy, raw, epochs=2)
    model = norm_model()
    fit(model, toy, WeightAveraging("swa", start=1, data=toy[0]), seen, epochs=2)
    # Training goes on with its own statistics.
    for ours, theirs in zip(seen.steps, raw.steps, strict=True):
        assert_close(ours, theirs)
    other = norm_model()
    other.set_weights(model.get_weights())
    other.layers[1].moving_mean.assign(np.full(8, 9.0))
    recalibrate_batch_norm(other, toy[0])
    assert_equal(model.get_weights(), other.get_weights())
    assert not np.allclose(model.layers[1].moving_mean, raw.steps[-1][4])
    # Without data, those of the last step; and it is said where they are of other weights.
    model = norm_model()
    with pytest.warns(UserWarning, match="statistics of BatchNorm.*Pass `data`"):
        fit(model, toy, WeightAveraging("swa", start=1), epochs=2)
    assert_close([model.layers[1].moving_mean], [raw.steps[-1][4]])


def test_data_that_does_not_fit_leaves_the_trained_weights(toy):
    model, seen = norm_model(), Keep()
    with pytest.raises(ValueError, match="shape"):
        fit(model, toy, seen, WeightAveraging("ema", 0.5, data=np.ones((8, 5), "float32")))
    assert_equal(model.get_weights(), seen.steps[3])


def test_the_other_callbacks(make_model, toy):
    """A plateau goes back to averaged weights, and training goes on from there."""
    callbacks = [
        ReduceOnPlateau("loss", 0.5, 1, mode="max", restore_best_weights=True, cooldown=9),
        WeightAveraging(decay=0.8),
        LearningRate(CosineDecay(0.05)),
    ]
    seen = Keep()
    model = seeded(make_model)
    fit(model, toy, *callbacks, seen, epochs=3)
    assert callbacks[0].cuts == [1]
    assert_equal(seen.epochs[1], seen.epochs[0])
    # The step after the cut is near the weights of the first epoch, not near the last ones.
    near, far = (
        np.abs(seen.steps[8][0] - other).max() for other in (seen.epochs[0][0], seen.steps[7][0])
    )
    assert near < far


def test_accumulation_and_several_steps_an_execution(make_model, toy):
    raw = Keep()
    accumulating = {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)}
    fit(seeded(make_model, **accumulating), toy, raw)
    accumulating = {"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)}
    # Keras on torch knows no more than one step an execution.
    steps = 1 if keras.backend.backend() == "torch" else 3
    model = seeded(make_model, **accumulating, steps_per_execution=steps)
    averaging = WeightAveraging(decay=0.8)
    fit(model, toy, averaging)
    assert averaging.count == 8
    assert_close(model.get_weights(), ema(raw.steps[1::2], 0.8))


def test_mixed_precision(toy):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, dtype=keras.DTypePolicy("mixed_float16"))]
    )
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    seen = Keep()
    fit(model, toy, seen, WeightAveraging(decay=0.8), epochs=1)
    assert_close(model.get_weights(), ema(seen.steps, 0.8))


@pytest.mark.backends("tensorflow")
def test_mirrored(make_model, toy, mirrored):
    raw = Keep()
    fit(seeded(make_model, "sgd"), toy, raw, epochs=2)
    with mirrored.scope():
        model = seeded(make_model, "sgd")
    fit(model, toy, WeightAveraging(decay=0.8), epochs=2)
    assert_close(model.get_weights(), ema(raw.steps, 0.8), atol=1e-5)


@pytest.mark.parametrize("kwargs", [{"decay": 0.8}, {"method": "lawa", "last": 2}])
def test_a_resumed_run_equals_a_whole_one(make_model, toy, kwargs):
    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            variables = [*self.model.weights, self.model.optimizer.iterations]
            self.state = first.get_state()
            self.values = [keras.ops.convert_to_numpy(v).copy() for v in variables]

    whole, seen = seeded(make_model, "sgd"), Keep()
    fit(whole, toy, WeightAveraging(**kwargs), seen)
    model, save = seeded(make_model, "sgd"), Save()
    first = WeightAveraging(**kwargs)
    fit(model, toy, save, first, epochs=2)
    again, second, seen_again = make_model("sgd"), WeightAveraging(**kwargs), Keep()
    again.optimizer.build(again.trainable_variables)
    for variable, value in zip(
        [*again.weights, again.optimizer.iterations], save.values, strict=True
    ):
        variable.assign(value)
    second.set_state(save.state)
    fit(again, toy, seen_again, second, initial_epoch=2)
    for ours, theirs in zip(seen_again.steps, seen.steps[8:], strict=True):
        assert_equal(ours, theirs)
    assert_equal(again.get_weights(), whole.get_weights())
    assert second.count == (16 if kwargs.get("decay") else 4)


def test_an_evaluation_within_an_epoch_changes_nothing(make_model, toy):
    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.evaluate(*toy, verbose=0)
            self.model.reset_metrics()

    ends = []
    for extra in ([], [Look()]):
        model = seeded(make_model)
        fit(model, toy, *extra, WeightAveraging("swa", start=0), epochs=2)
        ends.append(model.get_weights())
    assert_equal(*ends)


def test_after_an_exception_the_next_fit_goes_on_with_the_trained_weights(make_model, toy):
    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyError("on purpose")

    model, seen, averaging = seeded(make_model), Keep(), WeightAveraging(decay=0.8)
    with pytest.raises(KeyError, match="on purpose"):
        fit(model, toy, seen, averaging, Fail())
    assert_equal(model.get_weights(), seen.epochs[0])
    assert not np.array_equal(seen.epochs[0][0], seen.steps[-1][0])
    begin = Keep()
    begin.on_train_batch_begin = lambda batch, logs=None: begin.steps.append(begin.weights())
    fit(model, toy, begin, epochs=1)
    assert_equal(begin.steps[0], seen.steps[-1])
    # The same instance once more.
    fit(model, toy, averaging, epochs=1)
    assert averaging.count == 4


def test_nothing_to_average_is_told(make_model, toy):
    model, seen = seeded(make_model), Keep()
    with pytest.warns(UserWarning, match="No weights were averaged.*start='9ep'"):
        fit(model, toy, seen, WeightAveraging("swa", start="9ep"), epochs=1)
    assert_equal(model.get_weights(), seen.steps[-1])


def test_what_cannot_go_together(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.1, use_ema=True))
    with pytest.raises(ValueError, match="averages the weights itself.*use_ema=False"):
        fit(model, toy, WeightAveraging())
    model = make_model()
    with pytest.raises(ValueError, match="one `WeightAveraging` only"):
        fit(model, toy, WeightAveraging(), WeightAveraging())
    with pytest.raises(ValueError, match="no BatchNorm"):
        fit(model, toy, WeightAveraging(data=toy[0]))
    assert int(model.optimizer.iterations) == 0


def test_the_state_of_another_method(make_model, toy):
    first, second = WeightAveraging("lawa", last=2), WeightAveraging("lawa", last=3)
    model = make_model()
    fit(model, toy, first, epochs=1)
    second.set_state(first.get_state())
    with pytest.raises(ValueError, match="another `method` or `last`"):
        fit(model, toy, second, epochs=2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "mean"}, "Received: method='mean'"),
        ({"decay": 1}, "Received: decay=1"),
        ({"decay": -0.1}, "Received: decay=-0.1"),
        ({"start": "soon"}, "Received: start='soon'"),
        ({"every": 0}, "Received: every=0"),
        ({"every": "1.5ep"}, "Received: every='1.5ep'"),
        ({"every": 0.5}, "Received: every=0.5"),
        ({"last": 0}, "Received: last=0"),
        ({"last": 2.5}, "Received: last=2.5"),
        ({"data": (i for i in range(3))}, "Received: data=<generator"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        WeightAveraging(**kwargs)
