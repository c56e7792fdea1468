import json

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import LearningRate
from keras_optkit.schedules import CosineDecay, MultiStepDecay, OneCycle, Schedule, StepDecay

BATCH = 16  # 64 samples: 4 batches in an epoch


class Switch(Schedule):
    """0.1 up to a step, 0 from there on."""

    def __init__(self, at):
        self.at = at
        self._validate()

    def _rate(self, step):
        return 0.1 * keras.ops.cast(step < self.at, "float32")


def weights(model):
    return [keras.ops.convert_to_numpy(w).copy() for w in model.trainable_variables]


class Track(keras.callbacks.Callback):
    """Keeps the weights after every batch, and the number of updates."""

    def on_train_begin(self, logs=None):
        self.seen = [weights(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.seen.append(weights(self.model))

    def moved(self):
        """For each batch, whether any weight changed in it."""
        pairs = zip(self.seen, self.seen[1:], strict=False)
        return [any(not np.array_equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in pairs]


def fit(model, toy, callback, epochs=2, **kwargs):
    track = Track()
    kwargs = {"batch_size": BATCH, "verbose": 0, **kwargs}
    history = model.fit(*toy, epochs=epochs, callbacks=[callback, track], **kwargs)
    return history.history, track


def test_a_zero_rate_freezes_the_weights_from_exactly_that_step_on(make_model, toy):
    _, track = fit(make_model("sgd"), toy, LearningRate(Switch(6)))
    assert track.moved() == [True] * 6 + [False] * 2


def test_on_a_model_that_has_already_trained(make_model, toy):
    model = make_model("sgd")
    model.fit(*toy, batch_size=BATCH, epochs=2, verbose=0)
    _, track = fit(model, toy, LearningRate(Switch(6)))
    assert track.moved() == [True] * 6 + [False] * 2


def test_each_fit_starts_the_schedule_anew(make_model, toy):
    model, callback = make_model("sgd"), LearningRate(Switch(6))
    for _ in range(3):
        _, track = fit(model, toy, callback)
        assert track.moved() == [True] * 6 + [False] * 2


def test_updates_are_counted_not_batches(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2))
    _, track = fit(model, toy, LearningRate(Switch(3)), epochs=2)
    assert track.moved() == [False, True] * 3 + [False, False]


def test_epochs_under_accumulation(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2))
    callback = LearningRate(StepDecay(0.1, "1ep"))
    history, _ = fit(model, toy, callback, epochs=3)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.01, 0.001], rtol=1e-6)


@pytest.mark.backends("tensorflow", "jax")
def test_steps_per_execution(make_model, toy):
    model = make_model("sgd", steps_per_execution=3)
    # Executions of 3, 3 and 2 of the 8 steps; the last of them has a rate of 0 throughout.
    _, track = fit(model, toy, LearningRate(Switch(6)), epochs=1, batch_size=8)
    assert track.moved() == [True, True, False]


def test_initial_epoch_goes_on_in_the_schedule(make_model, toy):
    schedule = CosineDecay(0.1, "6ep").with_warmup("1ep")
    whole, _ = fit(make_model("sgd"), toy, LearningRate(schedule), epochs=6)
    part, _ = fit(make_model("sgd"), toy, LearningRate(schedule), epochs=6, initial_epoch=4)
    assert part["learning_rate"] == whole["learning_rate"][4:]


def test_the_rate_in_the_logs_is_the_one_of_the_last_update(make_model, toy):
    history, _ = fit(make_model("sgd"), toy, LearningRate(StepDecay(0.1, 4, gamma=0.5)), epochs=3)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05, 0.025], rtol=1e-6)
    json.dumps(history)
    history, _ = fit(make_model("sgd"), toy, LearningRate(StepDecay(0.1, 4), log=False))
    assert "learning_rate" not in history


@pytest.mark.parametrize("own", [0.5, keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)])
def test_the_optimizer_has_its_own_rate_back(make_model, toy, own):
    model = make_model(keras.optimizers.SGD(own))
    before = model.optimizer.get_config()
    fit(model, toy, LearningRate(CosineDecay(0.1)))
    assert model.optimizer.get_config() == before
    _, track = fit(model, toy, LearningRate(Switch(0)))
    assert track.moved() == [False] * 8
    track = Track()
    model.fit(*toy, batch_size=BATCH, verbose=0, callbacks=[track])
    assert track.moved() == [True] * 4


def test_a_fit_that_broke_leaves_no_schedule_behind(make_model, toy):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = make_model("sgd")
    with pytest.raises(KeyboardInterrupt):
        model.fit(*toy, verbose=0, callbacks=[LearningRate(Switch(0)), Breaks()])
    track = Track()
    model.fit(*toy, batch_size=BATCH, verbose=0, callbacks=[track])
    assert track.moved() == [True] * 4


def test_a_file_saved_in_mid_run_loads_without_this_package(make_model, toy, tmp_path):
    path = str(tmp_path / "mid.keras")
    save = keras.callbacks.ModelCheckpoint(path)
    make_model("sgd").fit(*toy, verbose=0, callbacks=[LearningRate(CosineDecay(0.1)), save])
    config = keras.models.load_model(path).optimizer.get_config()
    assert config["learning_rate"] == pytest.approx(0.01)


def test_under_loss_scaling(make_model, toy):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model("sgd")
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    # A scale of 1 makes no gradient overflow, so that every batch updates.
    model.optimizer.initial_scale = 1.0
    _, track = fit(model, toy, LearningRate(Switch(6)))
    assert track.moved() == [True] * 6 + [False] * 2


@pytest.mark.backends("tensorflow")
def test_under_mirrored_strategy(make_model, toy, mirrored):
    with mirrored.scope():
        model = make_model("sgd")
    history, track = fit(model, toy, LearningRate(Switch(6)))
    assert track.moved() == [True] * 6 + [False] * 2
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.0], rtol=1e-6)


def test_plain_functions_and_keras_schedules(make_model, toy):
    history, _ = fit(make_model("sgd"), toy, LearningRate(lambda step: 0.1 / (step + 1)))
    np.testing.assert_allclose(history["learning_rate"], [0.1 / 4, 0.1 / 8], rtol=1e-6)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.1, 0.01])
    history, _ = fit(make_model("sgd"), toy, LearningRate(schedule))
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.01], rtol=1e-6)


def test_an_error_in_the_users_function_surfaces_as_itself(make_model, toy):
    def broken(step):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="^mine$"):
        fit(make_model("sgd"), toy, LearningRate(broken))


def test_a_custom_train_step(toy):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, *args):
            return super().train_step(*args)

    model = Own()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model(toy[0][:1])
    _, track = fit(model, toy, LearningRate(Switch(6)))
    assert track.moved() == [True] * 6 + [False] * 2


def generator(toy):
    while True:
        yield toy[0][:BATCH], toy[1][:BATCH]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length(make_model, toy):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(toy).filter(lambda x, y: True).batch(BATCH)
    model = make_model("sgd")
    with pytest.raises(ValueError, match="steps_per_epoch="):
        model.fit(data, verbose=0, callbacks=[LearningRate(CosineDecay(0.1, "1ep"))])
    # In steps it works, and so it does where the length is told.
    history = model.fit(data, verbose=0, callbacks=[LearningRate(StepDecay(0.1, 100))])
    assert history.history["learning_rate"] == [pytest.approx(0.1)]
    model.fit(
        generator(toy), steps_per_epoch=3, verbose=0, callbacks=[LearningRate(CosineDecay(0.1))]
    )


@pytest.mark.parametrize(
    "schedule",
    [CosineDecay(0.1, "10ep"), MultiStepDecay(0.1, ["1ep", "10ep"])],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_schedule_longer_than_the_run_is_told_with_both_numbers(make_model, toy, schedule):
    with pytest.warns(UserWarning, match="40 steps and this fit only 8"):
        fit(make_model("sgd"), toy, LearningRate(schedule))


def test_another_callback_that_sets_the_rate_is_told(make_model, toy):
    plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=100)
    with pytest.raises(ValueError, match="Another callback assigned"):
        make_model("sgd").fit(
            *toy, epochs=5, verbose=0, callbacks=[LearningRate(CosineDecay(0.1)), plateau]
        )


def test_two_schedules_on_one_optimizer_are_refused(make_model, toy):
    two = [LearningRate(CosineDecay(0.1)), LearningRate(CosineDecay(0.2))]
    with pytest.raises(ValueError, match="Two callbacks set the learning rate"):
        make_model("sgd").fit(*toy, verbose=0, callbacks=two)


@pytest.mark.parametrize("bad", [0.1, None, "cosine", [0.1]])
def test_what_is_no_schedule_is_refused(bad):
    with pytest.raises(ValueError, match="Received: schedule="):
        LearningRate(bad)


@pytest.mark.parametrize("value", [float("nan"), -0.1, float("inf")])
def test_a_rate_that_is_none_is_told_before_the_first_step(make_model, toy, value):
    model = make_model("sgd")
    before = weights(model)
    with pytest.raises(ValueError, match="schedule.step.* must be a finite number"):
        fit(model, toy, LearningRate(lambda step: value))
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


def multi(rates=(0.1, 0.4), **kwargs):
    """Kernels learn by one optimizer and biases by another."""
    kernels, biases = (keras.optimizers.SGD(rate, **kwargs) for rate in rates)
    one_each = keras.optimizers.OptimizerMap(kernels, {".*/bias": biases})
    return keras.optimizers.MultiOptimizer(one_each)


def test_the_members_of_a_multi_optimizer_keep_the_ratio_of_their_rates(make_model, toy):
    """Rates of 0.1 and 0.4 train under a schedule of 0.2 as rates of 0.05 and 0.2 do."""
    model, plain = make_model(multi()), make_model(multi((0.05, 0.2)))
    plain.set_weights(model.get_weights())
    schedule = LearningRate(lambda step: 0.2 + 0 * step)
    for trained, callbacks in ((model, [schedule]), (plain, [])):
        trained.fit(*toy, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)
    for a, b in zip(weights(model), weights(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_multi_optimizer_freezes_and_accumulates(make_model, toy):
    model = make_model(multi(gradient_accumulation_steps=2))
    history, track = fit(model, toy, LearningRate(Switch(3)))
    assert track.moved() == [False, True] * 3 + [False, False]
    assert history["learning_rate"] == pytest.approx([0.1, 0.0])


def test_a_multi_optimizer_that_is_made_of_a_function(make_model, toy):
    kernels, biases = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.1)
    choose = keras.optimizers.MultiOptimizer(
        lambda variable: biases if variable.path.endswith("bias") else kernels
    )
    _, track = fit(make_model(choose), toy, LearningRate(Switch(6)))
    assert track.moved() == [True] * 6 + [False] * 2


def test_a_multi_optimizer_with_a_schedule_in_it_is_refused(make_model, toy):
    own = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)
    with pytest.raises(ValueError, match="must be numbers"):
        fit(make_model(multi((0.1, own))), toy, LearningRate(CosineDecay(0.1)))


def test_the_momentum_is_cycled_against_the_rate(make_model, toy):
    """One cycle trains as torch does with the rates and momenta that torch's cycle has."""
    torch = pytest.importorskip("torch")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = keras.optimizers.Adam(0.5)
    model.compile(optimizer, "mse")
    weight = torch.nn.Parameter(torch.tensor(weights(model)[0], dtype=torch.float64))
    x = torch.tensor(toy[0], dtype=torch.float64)
    theirs = torch.optim.Adam([weight], 0.1, eps=1e-7)
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=12)
    for start in [0, 16, 32, 48] * 3:
        theirs.zero_grad()
        ((x[start : start + BATCH] @ weight - 1) ** 2).mean().backward()
        theirs.step()
        cycle.step() if cycle.last_epoch < 11 else None
    schedule = OneCycle(0.1, cycle_momentum=True)
    fit(model, (toy[0], np.ones((64, 1))), LearningRate(schedule), epochs=3, shuffle=False)
    np.testing.assert_allclose(weights(model)[0], weight.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert optimizer.beta_1 == 0.9


@pytest.mark.backends("tensorflow")
def test_the_momentum_is_cycled_under_mirrored_strategy(make_model, toy, mirrored):
    import tensorflow as tf

    ends = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = make_model(keras.optimizers.SGD(0.1, momentum=0.6, weight_decay=0.01))
        fit(model, toy, LearningRate(OneCycle(0.1, cycle_momentum=True)), shuffle=False)
        assert model.optimizer.momentum == 0.6
        ends.append(weights(model))
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_a_momentum_that_is_not_there_is_told(make_model, toy):
    with pytest.raises(ValueError, match=r"cycle_momentum=False"):
        fit(make_model("sgd"), toy, LearningRate(OneCycle(0.1, cycle_momentum=True)))


def test_the_rate_of_each_step_on_request(make_model, toy):
    seen = []

    class Sees(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["learning_rate"])

    schedule = LearningRate(lambda step: 0.1 / (step + 1), log="step")
    model = make_model(keras.optimizers.SGD(0.5, gradient_accumulation_steps=2))
    history = model.fit(
        *toy, batch_size=BATCH, epochs=2, verbose=0, callbacks=[schedule, Sees()]
    ).history
    # The rate of the last update; before the first, that of the first.
    expected = 0.1 / np.array([1, 1, 1, 2, 2, 3, 3, 4])
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate"], expected[[3, 7]], rtol=1e-6)
    json.dumps(history)
    with pytest.raises(ValueError, match="Received: log='batch'"):
        LearningRate(CosineDecay(0.1), log="batch")


def test_no_step_waits_for_the_logs(make_model):
    def is_async(callbacks):
        return keras.callbacks.CallbackList(callbacks, model=make_model())._async_train

    assert is_async([LearningRate(CosineDecay(0.1))]) == is_async([])
