import keras
import numpy as np
import pytest
from keras import layers

from keras_optkit import callbacks, schedules
from keras_optkit.tuning.apply import apply_to_model, callbacks_for, compile_arguments, own_rate


def built(optimizer=None, *middle, **arguments):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "relu", name="hidden"), *middle, layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = optimizer or keras.optimizers.Adam(0.01, beta_1=0.8, clipnorm=1.0)
    model.compile(optimizer, **{"loss": loss, "metrics": ["accuracy"], **arguments})
    return model


def test_the_rest_of_the_compile_settings_stays():
    metric = keras.metrics.SparseCategoricalAccuracy(name="weighted")
    model = built(weighted_metrics=[metric], steps_per_execution=3, jit_compile=False)
    before = compile_arguments(model)
    new = apply_to_model(model, {"learning_rate": 0.5, "batch_norm": "before_activation"})
    after = compile_arguments(new)
    assert after.pop("optimizer") is not before.pop("optimizer")
    assert after == before
    assert new.steps_per_execution == 3 and new.jit_compile is False
    optimizer = new.optimizer
    assert own_rate(new) == 0.5
    assert (optimizer.beta_1, optimizer.clipnorm) == (0.8, 1.0)


def test_nothing_asked_for_changes_nothing():
    model = built()
    optimizer = model.optimizer
    assert apply_to_model(model, {"batch_norm": "none", "mixing": "mixup"}) is model
    assert model.optimizer is optimizer


def test_another_optimizer():
    model = built(keras.optimizers.Adam(0.01, clipnorm=1.0, gradient_accumulation_steps=2))
    values = {"optimizer": "sgd", "learning_rate": 0.3}
    sgd = apply_to_model(model, values).optimizer
    assert type(sgd).__name__ == "SGD"
    assert (sgd.momentum, sgd.clipnorm, sgd.gradient_accumulation_steps) == (0.9, 1.0, 2)
    sgd = apply_to_model(built(), values | {"momentum": 0.8}).optimizer
    assert sgd.momentum == 0.8
    for kind in ("adam", "adamax", "adamw", "lion", "nadam", "rmsprop"):
        model = apply_to_model(built(), {"optimizer": kind, "learning_rate": 0.003})
        assert type(model.optimizer).__name__.lower() == kind
        assert own_rate(model) == 0.003


def test_weight_decay_spares_biases_and_norms():
    model = built(keras.optimizers.SGD(0.1), layers.BatchNormalization())
    model = apply_to_model(model, {"weight_decay": 0.5})
    model.optimizer.build(model.trainable_variables)
    decayed = [v.name for v in model.trainable_variables if model.optimizer._use_weight_decay(v)]
    assert decayed == ["kernel", "kernel"]
    assert model.optimizer.weight_decay == 0.5
    # It does decay: a step with a gradient of zero shrinks kernels and nothing else.
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]
    zeros = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        factor = 1 - 0.1 * 0.5 if variable.name == "kernel" else 1
        new = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(new, old * factor, rtol=1e-5)


def test_loss_scaling_stays():
    inner = keras.optimizers.Adam(0.01)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    new = apply_to_model(built(scaled), {"learning_rate": 0.5})
    assert isinstance(new.optimizer, keras.optimizers.LossScaleOptimizer)
    assert new.optimizer.initial_scale == 8.0
    assert own_rate(new) == 0.5


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_batch_norm(position):
    names = [layer.name for layer in apply_to_model(built(), {"batch_norm": position}).layers]
    norm = names.index("hidden_bn")
    assert ("hidden_activation" in names[norm:]) == (position == "before_activation")


def test_dropout_sets_the_layers_that_are_there():
    model = apply_to_model(built(None, layers.Dropout(0.0, name="drop")), {"dropout": 0.9})
    drop = model.get_layer("drop")
    assert drop.rate == 0.9
    out = keras.ops.convert_to_numpy(drop(np.ones((1, 1000), "float32"), training=True))
    assert 0.8 < np.mean(out == 0) < 0.97
    assert sum(isinstance(layer, layers.Dropout) for layer in model.layers) == 1


def test_dropout_goes_before_the_head_where_there_is_none():
    names = [layer.name for layer in apply_to_model(built(), {"dropout": 0.3}).layers]
    assert names[0] == "hidden" and names[1].endswith("_dropout") and len(names) == 3
    x = keras.Input((4,))
    hidden = layers.Dense(5)(x)
    model = keras.Model(x, layers.Softmax()(layers.Dense(3, name="head")(hidden)))
    model.compile("adam", "sparse_categorical_crossentropy")
    new = apply_to_model(model, {"dropout": 0.3})
    assert [la.name for la in new.layers if isinstance(la, layers.Dropout)] == ["head_dropout"]


def test_callbacks():
    model = built(keras.optimizers.Adam(0.02))
    assert callbacks_for(model, {"schedule": "constant", "ema": 0.0, "pruning": 0.0}, 100) == []
    rate, pruning, average = callbacks_for(
        model, {"schedule": "cosine", "warmup": 0.1, "pruning": 0.5, "ema": 0.9}, 100
    )
    assert isinstance(rate, callbacks.LearningRate)
    assert type(rate.schedule) is schedules.CosineDecay
    assert (rate.schedule.initial_learning_rate, rate.schedule.warmup) == (0.02, 0.1)
    assert (pruning.schedule.final_sparsity, pruning.schedule.frequency) == (0.5, 5)
    assert (average.method, average.decay) == ("ema", 0.9)
    (warm,) = callbacks_for(model, {"warmup": 0.1}, None)
    assert type(warm.schedule) is schedules.Constant
    (cycle,) = callbacks_for(model, {"schedule": "one_cycle"}, None)
    assert cycle.schedule.max_learning_rate == 0.02


def test_bad_input():
    scheduled = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 100))
    with pytest.raises(ValueError, match="Put 'schedule' into the space too.*Received: optimizer="):
        apply_to_model(built(scheduled), {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="A schedule needs the learning rate"):
        callbacks_for(built(scheduled), {"schedule": "cosine"}, 10)
    with pytest.raises(ValueError, match="'momentum' is searched, and Adam has none"):
        apply_to_model(built(), {"momentum": 0.9})
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="must be compiled"):
        apply_to_model(plain, {"learning_rate": 0.1})
    flat = keras.Sequential([keras.Input((4, 1)), layers.Conv1D(2, 2), layers.Flatten()])
    flat.compile("adam", "mse")
    with pytest.raises(ValueError, match="neither a Dropout layer nor a Dense layer at its end"):
        apply_to_model(flat, {"dropout": 0.1})

    class Own(keras.Model):
        def compile(self, optimizer):
            super().compile(optimizer, "mse")

    x = keras.Input((4,))
    own = Own(x, layers.Dense(1)(x))
    own.compile("adam")
    with pytest.raises(ValueError, match="Own has a `compile` of its own"):
        apply_to_model(own, {"learning_rate": 0.1})
    assert apply_to_model(own, {"batch_size": 8, "schedule": "cosine"}) is own
