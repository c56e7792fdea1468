import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.callbacks import GroupSparsity, LearningRate
from keras_optkit.compression.structured.group_pull import members, pulled
from keras_optkit.compression.structured.plan import Plan
from keras_optkit.compression.structured.rules import trace_channels
from keras_optkit.distillation import Distiller
from keras_optkit.layers import ResidualBNBlock
from keras_optkit.pruning import prune_channels
from keras_optkit.schedules import StepDecay

RATE, STRENGTH = 0.1, 0.5


def two_branches(**kwargs):
    """Two branches that are added: their channels leave together. Then a layer without a norm."""
    x = keras.Input((6,))
    a = layers.BatchNormalization(name="norm_a")(layers.Dense(8, use_bias=False, name="a")(x))
    b = layers.Dense(8, use_bias=False, name="b")(x)
    b = layers.BatchNormalization(name="norm_b", scale=False)(b)
    y = layers.ReLU()(layers.Add()([a, b]))
    y = layers.Dense(5, "relu", name="bare")(y)
    model = keras.Model(x, layers.Dense(3, name="head")(y))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), loss, **kwargs)
    return model


def examples(samples=48):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + (x[:, 1] > 0.5)


def by_hand(model, strength, rate):
    """The pull on `two_branches`, channel by channel."""
    named = {layer.name: layer for layer in model.layers}
    values = {}

    def value(layer, name):
        variable = getattr(named[layer], name)
        if id(variable) not in values:
            values[id(variable)] = (variable, np.array(ops.convert_to_numpy(variable), "float64"))
        return values[id(variable)][1]

    groups = []
    for i in range(8):
        parts = [("norm_a", "gamma"), ("norm_a", "beta"), ("norm_b", "beta"), ("b", "kernel")]
        groups.append((parts, i, 2))
    groups += [([("bare", "kernel"), ("bare", "bias")], i, 1) for i in range(5)]
    for parts, i, makers in groups:
        arrays = [value(*part) for part in parts]
        norm = np.sqrt(sum((array[..., i] ** 2).sum() for array in arrays))
        factor = max(0.0, 1 - rate * strength * np.sqrt(makers) / norm)
        for array in arrays:
            array[..., i] *= factor
    for variable, array in values.values():
        variable.assign(array.astype("float32"))


def assert_same_weights(first, second, atol=1e-5):
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def fit(model, callbacks, epochs=2, **kwargs):
    x, y = examples()
    return model.fit(
        x, y, 8, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks, **kwargs
    )


def test_a_pull_is_the_proximal_step_of_the_group_lasso():
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=shape).astype("float32") for shape in [(4,), (3, 4, 2), (5,)]]
    axes, groups = [0, 1, 0], [[0, 1, 2, 3], [1, 1, 3, 2], [0, 1, 2, 3, 3]]
    pull = np.array([0.5, 9.0, 0.1], "float32")
    tensors = [ops.convert_to_tensor(group, "int32") for group in groups]
    got = pulled(
        [ops.convert_to_tensor(a) for a in arrays], axes, tensors, ops.convert_to_tensor(pull)
    )
    moved = [
        np.moveaxis(a.astype("float64"), axis, 0) for a, axis in zip(arrays, axes, strict=True)
    ]
    for group in range(3):
        parts = [m[[g == group for g in gs]] for m, gs in zip(moved, groups, strict=True)]
        norm = np.sqrt(sum((part**2).sum() for part in parts))
        for m, gs in zip(moved, groups, strict=True):
            m[[g == group for g in gs]] *= max(0, 1 - pull[group] / norm)
    for result, m, axis in zip(got, moved, axes, strict=True):
        expected = np.moveaxis(m, 0, axis)
        np.testing.assert_allclose(ops.convert_to_numpy(result), expected, rtol=1e-5)
    assert np.count_nonzero(ops.convert_to_numpy(got[1]) == 0) == 12


@pytest.mark.parametrize("accumulation", [None, 2])
def test_each_update_is_followed_by_a_pull_that_grows(accumulation):
    model, reference = two_branches(), two_branches()
    reference.set_weights(model.get_weights())
    for each in (model, reference):
        each.compile(
            keras.optimizers.Adam(0.02, gradient_accumulation_steps=accumulation), each.loss
        )
    callback = GroupSparsity(STRENGTH, duration="4step", begin_step=2)
    fit(model, [callback])
    x, y = examples()
    every = accumulation or 1
    for batch in range(12):
        part = slice(8 * (batch % 6), 8 * (batch % 6) + 8)
        reference.train_on_batch(x[part], y[part])
        update, rest = divmod(batch + 1, every)
        if rest == 0:
            by_hand(reference, STRENGTH * min(max(update - 2, 0) / 4, 1), 0.02)
    assert_same_weights(model, reference)


def test_a_norm_counts_only_where_all_goes_through_it():
    x = keras.Input((6,))
    normed = layers.Dense(8, name="normed")(x)
    y = layers.Dropout(0.1)(layers.ReLU()(normed))
    y = layers.BatchNormalization(name="norm")(y)
    split = layers.Dense(8, name="split")(y)
    y = layers.Add()([split, layers.BatchNormalization(name="beside")(split)])
    model = keras.Model(x, layers.Dense(3)(y))
    found, makers = members(Plan(trace_channels(model)))
    paths = {member.variable.path for member in found}
    assert paths == {"norm/gamma", "norm/beta", "split/kernel", "split/bias"}
    assert makers.tolist() == [1] * 16


def test_the_rate_is_that_of_the_schedule():
    model, reference = two_branches(), two_branches()
    reference.set_weights(model.get_weights())
    fit(model, [GroupSparsity(STRENGTH, 0), LearningRate(StepDecay(RATE, 5, 0.1))])
    x, y = examples()
    for batch in range(12):
        part = slice(8 * (batch % 6), 8 * (batch % 6) + 8)
        reference.optimizer.learning_rate = RATE * 0.1 ** (batch // 5)
        reference.train_on_batch(x[part], y[part])
        # The pull takes the rate of the update to come.
        by_hand(reference, STRENGTH, RATE * 0.1 ** ((batch + 1) // 5))
    assert_same_weights(model, reference)


@pytest.mark.backends("tensorflow", "torch")
def test_what_was_pulled_to_zero_leaves_without_a_trace():
    x = keras.Input((8, 8, 2))
    y = layers.Conv2D(10, 3, padding="same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(y))
    y = ResidualBNBlock(10, momentum=0.5)(y)
    y = layers.DepthwiseConv2D(3, padding="same")(y)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.5)(y))
    model = keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(y)))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(64, 8, 8, 2)).astype("float32")
    targets = np.stack([images[..., 0].max((1, 2)), images[..., 1].mean((1, 2))], 1)
    targets = np.concatenate([targets, targets[:, :1]], 1)
    history = model.fit(
        images, targets, 16, epochs=8, verbose=0, callbacks=[GroupSparsity(1.1, 0.3)]
    )
    json.dumps(history.history)
    norms = [model.layers[2], model.layers[4]._branch[0]._norm_layer]
    zeros = [int((ops.convert_to_numpy(norm.gamma) == 0).sum()) for norm in norms]
    assert history.history["group_sparsity"][-1] == pytest.approx(sum(zeros) / 20)
    assert 2 <= sum(zeros) < 19, zeros
    # One channel of each group stays, zero or not.
    left = 20 - sum(min(zero, 9) for zero in zeros)
    small = prune_channels(model, left / 20, "gamma", of="channels", allocation="global")
    assert small.count_params() < 0.9 * model.count_params()
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(small.predict(images, verbose=0), expected, atol=1e-5)


def own_step(model):
    """The model with a train step of its own, as users write them."""

    class Own(keras.Model):
        def train_step(self, *args):
            return super().train_step(*args)

    new = Own(model.inputs, model.outputs)
    new.compile(keras.optimizers.SGD(RATE, momentum=0.9), model.loss)
    return new


@pytest.mark.parametrize("way", ["jit", "several steps", "own step"])
def test_ways_to_compile_a_step(way):
    backend = keras.backend.backend()
    if backend == "torch" and way != "own step":
        pytest.skip("Keras on torch has neither")
    model = two_branches()
    start = model.get_weights()
    fit(model, [GroupSparsity(STRENGTH)])
    if way == "own step":
        other = own_step(two_branches())
    else:
        arguments = {"jit": {"jit_compile": True}, "several steps": {"steps_per_execution": 4}}
        other = two_branches(**arguments[way])
    other.set_weights(start)
    fit(other, [GroupSparsity(STRENGTH)])
    assert_same_weights(model, other)


def test_mixed_precision_with_a_scaled_loss():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = two_branches()
    finally:
        keras.config.set_dtype_policy("float32")
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=8.0)
    model.compile(scaled, model.loss)
    before = np.abs(model.get_layer("norm_a").get_weights()[0]).mean()
    history = fit(model, [GroupSparsity(STRENGTH, 0)])
    assert np.isfinite(history.history["loss"]).all()
    gamma = model.get_layer("norm_a").get_weights()[0]
    assert np.abs(gamma).mean() < before - 0.2
    assert gamma.dtype == "float32"


def test_a_strong_pull_zeroes_all_and_nothing_is_left_of_it():
    model = two_branches()
    model.optimizer.build(model.trainable_variables)
    count = len(model.optimizer.variables)
    history = fit(model, [GroupSparsity(30.0, 0, keep=["bare"])])
    assert history.history["group_sparsity"] == [1.0, 1.0]
    assert not np.any(model.get_layer("norm_a").get_weights()[:2])
    assert np.any(model.get_layer("bare").get_weights()[0])
    assert np.any(model.get_layer("head").get_weights()[0])
    assert len(model.optimizer.variables) == count
    assert "apply" not in vars(model.optimizer)
    model.get_layer("norm_a").gamma.assign(np.ones(8))
    fit(model, [])
    assert np.all(model.get_layer("norm_a").get_weights()[0] > 0.5)


def test_frozen_parts_are_left_alone():
    model = two_branches()
    model.get_layer("norm_a").trainable = False
    model.compile(model.optimizer, model.loss)
    fit(model, [GroupSparsity(30.0, 0)])
    np.testing.assert_array_equal(model.get_layer("norm_a").get_weights()[0], np.ones(8))
    assert not np.any(model.get_layer("norm_b").get_weights()[0])


def test_the_student_of_a_distiller():
    student, teacher = two_branches(), two_branches()
    distiller = Distiller(student, teacher)
    distiller.compile("sgd", student.loss)
    with pytest.raises(ValueError, match="pass that one as `model=`"):
        fit(distiller, [GroupSparsity(30.0, 0)])
    fit(distiller, [GroupSparsity(300.0, 0, model=student)])
    assert not np.any(student.get_layer("norm_a").get_weights()[:2])
    assert np.any(teacher.get_layer("norm_a").get_weights()[0])


@pytest.mark.backends("tensorflow")
def test_several_replicas(mirrored):
    plain = two_branches()
    with mirrored.scope():
        model = two_branches()
    model.set_weights(plain.get_weights())
    # The statistics of the norms differ, their use does not.
    fit(model, [GroupSparsity(30.0, 0)])
    assert not np.any(model.get_layer("norm_a").get_weights()[:2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strength": 0}, "greater than 0"),
        ({"strength": True}, "greater than 0"),
        ({"strength": 0.1, "duration": "3 days"}, "`duration` must be"),
        ({"strength": 0.1, "begin_step": -1}, "`begin_step` must be"),
        ({"strength": 0.1, "begin_step": 99}, "would begin at step 99, and this fit has 12"),
        ({"strength": 0.1, "keep": ["nrom_a"]}, "Did you mean 'norm_a'"),
        ({"strength": 0.1, "keep": ["a", "b", "bare"]}, "No channel of this model may leave"),
        ({"strength": 0.1, "model": two_branches}, "is not trained by this `fit`"),
    ],
)
def test_bad_arguments(arguments, message):
    model = two_branches()
    before = model.get_weights()
    if callable(arguments.get("model")):
        arguments = {**arguments, "model": arguments["model"]()}
    with pytest.raises(ValueError) as error:
        fit(model, [GroupSparsity(**arguments)])
    assert message in str(error.value)
    assert "Received: " in str(error.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    fit(model, [])


def test_a_strength_that_is_never_reached_is_told():
    with pytest.warns(UserWarning, match="full strength at step 60, and this fit has 12"):
        fit(two_branches(), [GroupSparsity(0.1, "10ep")])
