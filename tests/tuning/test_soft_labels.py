import keras
import numpy as np
import pytest

from keras_optkit.tuning.soft_labels import label_kind, one_hot, smoothed, soft_arguments

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(20, 5)).astype("float32")
LABELS = RNG.integers(0, 5, 20)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_the_soft_loss_of_one_hot_labels_is_that_of_ids(loss):
    soft = soft_arguments({"loss": loss})["loss"]
    outputs = LOGITS if getattr(loss, "from_logits", False) else keras.ops.softmax(LOGITS)
    own = keras.ops.mean(keras.losses.get(loss)(LABELS, outputs))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(soft(one_hot(LABELS, 5), outputs)),
        keras.ops.convert_to_numpy(own),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "metric",
    [
        "sparse_categorical_accuracy",
        keras.metrics.SparseCategoricalAccuracy(name="acc"),
        keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2"),
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
    ],
)
def test_the_soft_metric_has_the_name_and_the_value_of_the_own(metric):
    loss = "sparse_categorical_crossentropy"
    (soft,) = soft_arguments({"loss": loss, "metrics": [metric]})["metrics"]
    own = metric
    if isinstance(metric, str):
        own = keras.metrics.SparseCategoricalAccuracy(name=metric)
    own.update_state(LABELS, LOGITS)
    soft.update_state(one_hot(LABELS, 5), LOGITS)
    assert soft.name == own.name
    assert float(soft.result()) == pytest.approx(float(own.result()), rel=1e-5)


def test_metrics_in_any_structure():
    own = {"a": ["accuracy", keras.metrics.SparseCategoricalAccuracy()], "b": None}
    arguments = {"loss": "sparse_categorical_crossentropy", "metrics": own}
    soft = soft_arguments(arguments)["metrics"]
    assert soft["a"][0] == "accuracy" and soft["b"] is None
    assert type(soft["a"][1]) is keras.metrics.CategoricalAccuracy
    assert arguments["metrics"] is own


def test_smoothing_is_what_keras_does_in_its_loss():
    for kind, loss, labels in (
        ("categorical", keras.losses.CategoricalCrossentropy, one_hot(LABELS, 5)),
        ("binary", keras.losses.BinaryCrossentropy, (LABELS[:, None] > 2).astype("float32")),
    ):
        outputs = LOGITS[:, : labels.shape[1]]
        expected = loss(from_logits=True, label_smoothing=0.1)(labels, outputs)
        own = loss(from_logits=True)(smoothed(labels, 0.1, kind), outputs)
        assert float(own) == pytest.approx(float(expected), rel=1e-5)
        # What the loss smooths itself is not smoothed twice.
        taken = soft_arguments({"loss": loss(from_logits=True, label_smoothing=0.3)})["loss"]
        assert taken.label_smoothing == 0 and taken.from_logits


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        ["mse"],
        None,
        keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
        lambda y, p: 0,
    ],
)
def test_other_losses_are_refused(loss):
    with pytest.raises(ValueError, match=r"must have.*a crossentropy.*Received: loss="):
        label_kind(loss)


def test_labels_that_are_no_class_are_refused():
    with pytest.raises(ValueError, match=r"from 0 to 2.*Received: labels from 0 to 3"):
        one_hot([0, 3], 3)
