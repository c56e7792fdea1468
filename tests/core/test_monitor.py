import keras
import pytest

from keras_optkit.core.monitor import Monitor


def bound(monitor, model, mode="auto"):
    monitor = Monitor(monitor, mode)
    monitor.bind(model)
    return monitor


@pytest.mark.parametrize(
    ("metric", "name", "direction"),
    [
        ("accuracy", "val_accuracy", "max"),
        ("accuracy", "accuracy", "max"),
        ("accuracy", "val_loss", "min"),
        ("sparse_categorical_accuracy", "sparse_categorical_accuracy", "max"),
        (keras.metrics.SparseCategoricalCrossentropy, "sparse_categorical_crossentropy", "min"),
        (keras.metrics.SparseTopKCategoricalAccuracy, "sparse_top_k_categorical_accuracy", "max"),
        ("mse", "val_mse", "min"),
    ],
)
def test_direction_is_told_before_the_first_step(make_model, metric, name, direction):
    metric = metric() if isinstance(metric, type) else metric
    assert bound(name, make_model(metrics=[metric])).direction == direction


@pytest.mark.parametrize("typo", ["val_acuracy", "acc", "val_los", "accurracy"])
def test_a_typo_is_told_with_the_nearest_name(make_model, typo):
    with pytest.raises(ValueError, match="Did you mean '.*Received: monitor="):
        bound(typo, make_model())
    with pytest.raises(ValueError, match="Did you mean"):
        bound(typo, make_model(), mode="max")


def test_a_value_of_another_callback_needs_a_mode(make_model):
    with pytest.raises(ValueError, match="needs `mode="):
        bound("val_macro_f1", make_model())
    assert bound("val_macro_f1", make_model(), mode="max").direction == "max"


def test_unknown_direction_asks_for_the_mode(make_model):
    def spread(y_true, y_pred):
        return keras.ops.max(y_pred) - keras.ops.min(y_pred)

    with pytest.raises(ValueError, match="mode='max'"):
        bound("val_spread", make_model(metrics=[spread]))
    assert bound("val_spread", make_model(metrics=[spread]), "min").direction == "min"


def test_several_outputs_have_their_own_names():
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(1, name=name)(inputs) for name in ("left", "right")]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", ["mse", "mse"], metrics=[["mae"], ["mae"]])
    for name in ("val_left_mae", "right_mae", "left_loss", "val_right_loss"):
        assert bound(name, model).direction == "min"
    with pytest.raises(ValueError, match="left_mae"):
        bound("left_mea", model)


def test_a_custom_train_step_may_log_anything():
    class Own(keras.Model):
        def train_step(self, *args, **kwargs):
            raise NotImplementedError

    model = Own()
    model.compile("sgd", "mse")
    assert bound("val_anything", model, "min").direction == "min"


@pytest.mark.parametrize(
    ("mode", "value", "reference", "better"),
    [
        ("min", 0.89, 1.0, True),
        ("min", 0.91, 1.0, False),
        ("max", 1.11, 1.0, True),
        ("max", 1.09, 1.0, False),
        ("max", 5.0, None, True),
        ("max", float("nan"), None, False),
        ("max", float("inf"), 1.0, False),
        ("min", float("-inf"), 1.0, False),
    ],
)
@pytest.mark.parametrize("min_delta", [0.1, -0.1])
def test_better_means_by_more_than_min_delta(mode, value, reference, better, min_delta):
    assert Monitor("x", mode, min_delta).better(value, reference) is better


def test_bad_arguments():
    with pytest.raises(ValueError, match="Received: mode='maximum'"):
        Monitor("loss", "maximum")
    with pytest.raises(ValueError, match="min_delta=nan"):
        Monitor("loss", min_delta=float("nan"))
