"""The Distiller: what it trains, what it leaves alone, what it refuses."""

import keras
import numpy as np
import pytest
from distillation_nets import (
    CLASSES,
    assert_same,
    compile_args,
    conv_net,
    images,
    net,
    vectors,
    weights,
)

from keras_optkit import distillation
from keras_optkit.distillation import Distiller, FeatureHint, SoftTargets


@pytest.fixture
def data():
    return vectors()


@pytest.fixture
def teacher():
    return net(width=16, seed=7)


def fit(model, data, seed=3, **kwargs):
    keras.utils.set_random_seed(seed)
    return model.fit(*data, **{"epochs": 2, "batch_size": 16, "verbose": 0, **kwargs})


@pytest.mark.parametrize(
    "weighted",
    [{"sample_weight": np.linspace(0, 2, 32)}, {"class_weight": {0: 2.0, 1: 0.5}}],
    ids=lambda weighted: next(iter(weighted)),
)
def test_alpha_0_is_plain_training(data, teacher, weighted):
    """With dropout, BatchNorm and a regularizer: weight for weight."""
    plain = net(regularizer="l2")
    plain.compile(**compile_args(metrics=["accuracy"]))
    expected = fit(plain, data, **weighted).history

    student = net(regularizer="l2")
    distiller = Distiller(student, teacher, [SoftTargets(), FeatureHint("features")], alpha=0)
    distiller.compile(**compile_args(metrics=["accuracy"]))
    found = fit(distiller, data, **weighted).history
    assert_same(weights(student), weights(plain), rtol=0, atol=1e-6)
    assert set(found) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-6)


@pytest.mark.parametrize("by_class", [False, True], ids=["sample_weight", "class_weight"])
def test_the_loss_is_the_sum_that_is_documented(data, teacher, by_class):
    """One step without dropout, against NumPy: labels, soft targets, regularizer, weights."""
    x, y = data
    student = net(dropout=0, regularizer=keras.regularizers.L2(0.1))
    given = {"sample_weight": np.linspace(0.5, 2, 32)}
    if by_class:
        given = {"class_weight": dict(enumerate(np.linspace(0.5, 2, CLASSES)))}
    sample_weight = given.get("sample_weight", np.linspace(0.5, 2, CLASSES)[y])
    z, v = (
        teacher.predict(x, verbose=0),
        np.array(keras.ops.convert_to_numpy(student(x, training=True))),
    )

    def log_softmax(a):
        a = a.astype("float64")
        return a - np.log(np.exp(a).sum(-1, keepdims=True))

    log_p, log_q = log_softmax(z / 2), log_softmax(v / 2)
    soft = 4 * (np.exp(log_p) * (log_p - log_q)).sum(-1)
    label = -log_softmax(v)[np.arange(32), y]
    kernel = np.array(student.layers[0].kernel)
    expected = {
        "label_loss": (label * sample_weight).mean(),
        "distillation_loss": (soft * sample_weight).mean(),
    }
    expected["loss"] = 0.3 * expected["label_loss"] + 0.7 * expected["distillation_loss"]
    expected["loss"] += 0.1 * (kernel.astype("float64") ** 2).sum()

    distiller = Distiller(student, teacher, SoftTargets(2.0), alpha=0.7)
    distiller.compile(**compile_args())
    logs = fit(distiller, data, epochs=1, batch_size=32, **given).history
    assert set(logs) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(logs[key], [value], rtol=1e-5, err_msg=key)


class MeanSquare(keras.layers.Layer):
    """Adds the mean square of what runs through it to the loss."""

    def call(self, inputs):
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs


@pytest.mark.parametrize("features", [False, True], ids=["outputs", "features"])
def test_losses_inside_the_student_count_once(data, teacher, features):
    """Those of activity and of `add_loss`, against NumPy."""
    keras.utils.set_random_seed(0)
    first = keras.layers.Dense(8, name="features", activity_regularizer=keras.regularizers.L2(0.1))
    layers = [first, MeanSquare(), keras.layers.Dense(CLASSES, name="head")]
    student = keras.Sequential([keras.Input((6,)), *layers])
    kernel, bias = (w.astype("float64") for w in weights(first))
    squares = np.square(data[0] @ kernel + bias)
    losses = [SoftTargets()] + [FeatureHint("features")] * features
    distiller = Distiller(student, teacher, losses)
    distiller.compile(**compile_args())
    logs = fit(distiller, data, epochs=1, batch_size=32).history
    own = logs["loss"][0] - 0.5 * (logs["label_loss"][0] + logs["distillation_loss"][0])
    assert own == pytest.approx(0.1 * squares.sum() / 32 + squares.mean(), rel=1e-4)


@pytest.mark.parametrize("features", [False, True], ids=["outputs", "features"])
def test_the_teacher_is_untouched(data, teacher, features):
    teacher.layers[0].trainable = False
    flags = [layer.trainable for layer in teacher._flatten_layers()]
    before = weights(teacher)
    losses = [SoftTargets()] + [FeatureHint("features")] * features
    distiller = Distiller(net(), teacher, losses)
    distiller.compile(**compile_args())
    fit(distiller, data, validation_data=data)
    assert_same(weights(teacher), before, rtol=0, atol=0)
    assert [layer.trainable for layer in teacher._flatten_layers()] == flags
    ids = {id(v) for v in teacher.variables}
    assert not ids & {id(v) for v in distiller.weights + distiller.trainable_variables}
    assert distiller.optimizer.built
    assert not ids & {id(v) for v in distiller.optimizer.variables}


def test_the_teacher_is_untouched_after_an_exception(data, teacher):
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("stop here")

    before, student = weights(teacher), net()
    expected = teacher.predict(data[0], verbose=0)
    distiller = Distiller(student, teacher)
    distiller.compile(**compile_args())
    with pytest.raises(RuntimeError, match="stop here"):
        fit(distiller, data, callbacks=[Failing()])
    assert_same(weights(teacher), before, rtol=0, atol=0)
    np.testing.assert_array_equal(teacher.predict(data[0], verbose=0), expected)
    assert np.isfinite(student.predict(data[0], verbose=0)).all()


def test_a_teacher_that_was_trained_on_between_two_fits_is_heard(data, teacher):
    """What is compiled must not hold the weights that the teacher had."""
    student, start = net(dropout=0), weights(net())
    distiller = Distiller(student, teacher, alpha=1)
    distiller.compile(keras.optimizers.SGD(0.0))
    first = fit(distiller, data, epochs=1, batch_size=32).history["loss"][0]
    teacher.set_weights([w * 2 for w in teacher.get_weights()])
    student.set_weights(start)
    second = fit(distiller, data, epochs=1, batch_size=32).history["loss"][0]
    assert abs(second - first) > 1e-3


def test_the_student_runs_once_in_a_step(data, teacher):
    """BatchNorm counts: after one step at momentum 0.9 the mean has moved once."""
    student = net(dropout=0)
    expected = net(dropout=0)
    expected(data[0], training=True)
    losses = [SoftTargets(), FeatureHint("features")]
    distiller = Distiller(student, teacher, losses, alpha=0.5)
    distiller.compile(**compile_args(optimizer=keras.optimizers.SGD(0.0)))
    fit(distiller, data, epochs=1, batch_size=32)
    assert_same(weights(student), weights(expected), rtol=1e-5, atol=1e-6)


def test_evaluate_and_predict_are_the_students(data, teacher):
    student = net(regularizer="l2")
    distiller = Distiller(student, teacher, [SoftTargets(), FeatureHint("features")])
    distiller.compile(**compile_args(metrics=["accuracy"]))
    fit(distiller, data, epochs=1)
    before = weights(distiller)
    found = distiller.evaluate(*data, verbose=0, return_dict=True)
    listed = distiller.evaluate(*data, verbose=0)
    assert_same(weights(distiller), before, rtol=0, atol=0)
    predicted = distiller.predict(data[0], verbose=0)
    np.testing.assert_allclose(predicted, student.predict(data[0], verbose=0), atol=1e-6)
    student.compile(**compile_args(metrics=["accuracy"]))
    expected = student.evaluate(*data, verbose=0, return_dict=True)
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5)
    np.testing.assert_allclose(listed, [found["loss"], found["accuracy"]], rtol=1e-6)


def test_the_file_is_the_students(data, teacher, tmp_path):
    student = net()
    distiller = Distiller(student, teacher, [SoftTargets(), FeatureHint("features")])
    distiller.compile(**compile_args())
    assert distiller.student is student
    path = tmp_path / "student.keras"
    fit(distiller, data, epochs=1, callbacks=[keras.callbacks.ModelCheckpoint(str(path))])
    loaded = keras.saving.load_model(path)
    assert type(loaded) is keras.Sequential
    assert loaded.count_params() == student.count_params()
    assert_same(weights(loaded), weights(student), rtol=0, atol=0)


def test_weights_for_going_on_hold_the_projection_and_no_teacher(data, teacher, tmp_path):
    losses = [SoftTargets(), FeatureHint("features")]
    distiller = Distiller(net(), teacher, losses)
    distiller.compile(**compile_args())
    fit(distiller, data, epochs=1)
    path = str(tmp_path / "state.weights.h5")
    distiller.save_weights(path)
    again = Distiller(net(seed=9), teacher, losses)
    again.compile(**compile_args())
    again.optimizer.build(again.trainable_variables)
    again.load_weights(path)
    assert_same(weights(again), weights(distiller), rtol=0, atol=0)
    projection = 8 * 16 + 16
    assert distiller.count_params() == distiller.student.count_params() + projection


# What stands behind the features learns nothing, and TensorFlow says so.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_projection_is_trained_with_the_student(data, teacher):
    distiller = Distiller(net(), teacher, FeatureHint("features"), alpha=1)
    (projection,) = distiller.projections
    before = weights(projection)
    distiller.compile("adam")
    history = fit(distiller, data, epochs=4).history["loss"]
    assert history[-1] < history[0]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(weights(projection), before, strict=True))


def test_without_labels(data, teacher):
    distiller = Distiller(net(), teacher, alpha=1)
    distiller.compile("adam")
    history = fit(distiller, data[:1]).history
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_allclose(history["loss"], history["distillation_loss"], rtol=1e-6)


def test_a_student_learns_what_the_teacher_knows(data):
    """No labels at all: only the teacher tells."""
    x, _ = vectors(64)
    teacher, student = net(width=4, dropout=0, seed=5), net(width=16, dropout=0)
    distiller = Distiller(student, teacher, SoftTargets(1.0), alpha=1)
    distiller.compile(keras.optimizers.Adam(1e-2))
    history = fit(distiller, (x,), epochs=20, batch_size=32).history["loss"]
    assert history[-1] < history[0] / 2


@pytest.mark.parametrize("how", ["recognised", "told"])
def test_a_teacher_that_ends_in_softmax_is_softened_once(data, teacher, how):

    probable = keras.Sequential([*teacher.layers, keras.layers.Softmax()])
    probable.build((None, 6))
    losses = []
    for model, output in [(teacher, "auto"), (probable, how)]:
        distiller = Distiller(
            net(dropout=0), model, teacher_output={"told": "probabilities"}.get(output, "auto")
        )
        distiller.compile(**compile_args())
        losses.append(fit(distiller, data, epochs=1).history["distillation_loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_student_that_ends_in_softmax(data, teacher):
    found = []
    for activation in (None, "softmax"):
        distiller = Distiller(net(dropout=0, activation=activation), teacher)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
        distiller.compile("sgd", loss=loss)
        fit(distiller, data, epochs=1)
        found.append(weights(distiller.student))
    assert_same(*found, rtol=1e-3, atol=1e-4)


def test_the_outputs_of_a_subclassed_teacher_must_be_told(data, teacher):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = teacher
            self.built = True

        def call(self, inputs):
            return self.inner(inputs)

    with pytest.raises(ValueError, match='Pass `teacher_output="logits"` or `teacher_output="p'):
        Distiller(net(), Own())
    distiller = Distiller(net(), Own(), teacher_output="logits")
    distiller.compile(**compile_args())
    fit(distiller, data, epochs=1)


def test_several_losses_are_weighed():
    data, teacher = images(), conv_net(width=8, size=12, seed=7)
    losses = [
        SoftTargets(weight=0.5),
        distillation.JensenShannon(weight=2.0),
        distillation.DecoupledTargets(weight=0.1),
        distillation.SquaredLogits(weight=0.2),
        distillation.HardTargets(weight=0.3),
        distillation.AttentionTransfer("features", weight=3.0),
        distillation.RelationalDistance("pool", weight=4.0),
        distillation.RelationalAngle("pool", weight=5.0),
        FeatureHint("features", weight=6.0),
    ]
    distiller = Distiller(conv_net(), teacher, losses, alpha=0.25)
    distiller.compile(**compile_args())
    logs = {k: v[0] for k, v in fit(distiller, data, epochs=1).history.items()}
    weighed = sum(loss.weight * logs[loss.name] for loss in losses)
    np.testing.assert_allclose(logs["distillation_loss"], weighed, rtol=1e-5)
    total = 0.75 * logs["label_loss"] + 0.25 * logs["distillation_loss"]
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


def test_a_teacher_of_another_input_size():
    x, y = images()
    teacher = conv_net(width=8, size=12, seed=7)
    resized = keras.ops.convert_to_numpy(keras.ops.image.resize(x, (12, 12), antialias=True))
    student = conv_net()
    distiller = Distiller(student, teacher, distillation.SquaredLogits(), alpha=1)
    distiller.compile("sgd")
    difference = teacher.predict(resized, verbose=0) - student.predict(x, verbose=0)
    expected = np.mean(difference**2)
    found = fit(distiller, (x, y), epochs=1, batch_size=32).history["distillation_loss"]
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_a_teacher_with_a_preprocessor(data):
    x, _ = data
    distiller = Distiller(
        net(dropout=0),
        net(width=16, seed=7),
        distillation.SquaredLogits(),
        alpha=1,
        teacher_preprocessor=lambda images: images * 2 + 1,
    )
    expected = np.mean(
        (
            net(width=16, seed=7).predict(x * 2 + 1, verbose=0)
            - keras.ops.convert_to_numpy(net(dropout=0)(x, training=True))
        )
        ** 2
    )
    distiller.compile("sgd")
    found = fit(distiller, data, epochs=1, batch_size=32).history["distillation_loss"]
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


@pytest.mark.parametrize("ensemble", ["logits", "probabilities"])
def test_an_ensemble_and_a_path(data, teacher, tmp_path, ensemble):
    x, _ = data
    path = tmp_path / "second.keras"
    second = net(width=4, seed=11)
    second.save(path)
    student = net(dropout=0)
    v = np.array(keras.ops.convert_to_numpy(student(x, training=True)), "float64")
    z = [m.predict(x, verbose=0).astype("float64") for m in (teacher, second)]

    def softmax(a):
        e = np.exp(a - a.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    if ensemble == "logits":
        p = softmax(np.mean(z, axis=0))
    else:
        p = np.mean([softmax(a) for a in z], axis=0)
    expected = (p * (np.log(p) - np.log(softmax(v)))).sum(-1).mean()
    distiller = Distiller(
        student, [teacher, str(path)], SoftTargets(1.0), alpha=1, ensemble=ensemble
    )
    distiller.compile("sgd")
    found = fit(distiller, data, epochs=1, batch_size=32).history["distillation_loss"]
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_an_ensemble_of_several_input_sizes():
    """Each teacher gets images of its own size."""
    x, _ = images()
    teachers = [conv_net(width=8, size=size, seed=size) for size in (12, 10)]
    answers = []
    for model in teachers:
        resized = keras.ops.image.resize(x, model.input_shape[1:3], antialias=True)
        answers.append(model.predict(keras.ops.convert_to_numpy(resized), verbose=0))
    student = conv_net()
    expected = np.mean((np.mean(answers, axis=0) - student.predict(x, verbose=0)) ** 2)
    distiller = Distiller(student, teachers, distillation.SquaredLogits(), alpha=1)
    distiller.compile("sgd")
    found = fit(distiller, (x,), epochs=1, batch_size=32).history["distillation_loss"]
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def two_outputs(seed, swap=False):
    keras.utils.set_random_seed(seed)
    x = keras.Input((6,))
    outputs = [keras.layers.Dense(3, name="a")(x), keras.layers.Dense(2, name="b")(x)]
    return keras.Model(x, outputs[::-1] if swap else outputs)


def test_several_outputs_are_matched_by_name(data):
    x, _ = data
    y = [np.zeros(32, "int32"), np.ones(32, "int32")]
    student, teacher = two_outputs(0), two_outputs(1, swap=True)
    b, a = teacher.predict(x, verbose=0)
    own = student.predict(x, verbose=0)
    weight = np.linspace(0, 1, 32)
    expected = {
        "squared_logits": (((a - own[0]) ** 2).mean(-1) * weight).mean()
        + ((b - own[1]) ** 2).mean(),
        "only_b": ((b - own[1]) ** 2).mean(),
    }
    losses = [
        distillation.SquaredLogits(),
        distillation.SquaredLogits(output="b", name="only_b"),
    ]
    distiller = Distiller(student, teacher, losses)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss=[loss, loss], metrics=[["accuracy"], ["accuracy"]])
    history = fit(
        distiller, (x, y), epochs=1, batch_size=32, sample_weight=[weight, np.ones(32)]
    ).history
    for key, value in expected.items():
        np.testing.assert_allclose(history[key], [value], rtol=1e-4)
    assert {"a_loss", "b_loss", "a_accuracy", "b_accuracy"} <= set(history)


def test_mixed_precision(data, teacher):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = net()
    finally:
        keras.config.set_dtype_policy(policy)
    distiller = Distiller(student, teacher, [SoftTargets(), FeatureHint("features")])
    distiller.compile(**compile_args())
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    history = fit(distiller, data).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(w).all() for w in weights(student))


def test_layers_inside_nested_models(data):
    def nested(width, seed):
        x = keras.Input((6,))
        return keras.Sequential([x, net(width, seed=seed), keras.layers.Dense(CLASSES)])

    student = nested(8, 0)
    distiller = Distiller(student, nested(16, 1), FeatureHint("features"))
    distiller.compile(**compile_args())
    fit(distiller, data, epochs=1)


def test_a_moving_average_of_the_student_as_its_teacher(data, tmp_path):
    """The average is made of what the student was at the start of each step."""
    student = net(dropout=0)
    distiller = Distiller(student, distillation.MovingAverageTeacher(0.75), SoftTargets())
    distiller.compile(**compile_args(optimizer=keras.optimizers.SGD(0.5)))
    expected = weights(student)
    for step in range(3):
        before = weights(student)
        # BatchNorm has moved already when the loss is computed.
        fit(distiller, data, epochs=1, batch_size=32, seed=step)
        after = weights(student)
        moving = [i for i, w in enumerate(student.weights) if "moving" in w.path]
        seen = [after[i] if i in moving else w for i, w in enumerate(before)]
        expected = [0.75 * e + 0.25 * s for e, s in zip(expected, seen, strict=True)]
    assert_same(weights(distiller.average), expected, rtol=1e-4, atol=1e-6)
    assert len(distiller.trainable_variables) == len(student.trainable_variables)
    distiller.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert loaded.count_params() == student.count_params()


def _one_column(activation, width, seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(width, "tanh"), keras.layers.Dense(1, activation=activation)]
    return keras.Sequential([keras.Input((6,)), *layers])


def _distillation_loss(distiller, data):
    distiller.compile("sgd", "mse", run_eagerly=True)
    x, y = data[0], data[1] > 2
    history = fit(distiller, (x, y.astype("float32")[:, None]), epochs=1, batch_size=32)
    return history.history["distillation_loss"][0]


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_column_is_two_classes(data, activation):
    """Against the divergence of two Bernoulli distributions, softened."""
    student, teacher = _one_column(activation, 4, 0), _one_column(activation, 8, 1)

    def odds(model):
        values = np.float64(model.predict(data[0], verbose=0))
        return np.log(values / (1 - values)) if activation else values

    p, q = (1 / (1 + np.exp(-odds(model) / 2)) for model in (teacher, student))
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    told = {} if activation else {"student_output": "logits", "teacher_output": "logits"}
    found = _distillation_loss(Distiller(student, teacher, SoftTargets(2.0), **told), data)
    assert found == pytest.approx(4 * expected.mean(), rel=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_squared_differences_of_one_column(data, activation):
    student, teacher = _one_column(activation, 4, 0), _one_column(activation, 8, 1)

    def values(model):
        values = np.float64(model.predict(data[0], verbose=0))
        return np.log(values / (1 - values)) if activation else values

    expected = np.square(values(student) - values(teacher)).mean()
    found = _distillation_loss(Distiller(student, teacher, distillation.SquaredLogits()), data)
    assert found == pytest.approx(expected, rel=1e-4)


# What is refused.


def test_one_column_that_may_be_a_number_or_a_logit():
    with pytest.raises(ValueError, match="use `SquaredLogits` for the latter. Received: student_o"):
        Distiller(_one_column(None, 4, 0), _one_column(None, 8, 1))


def test_sigmoids_of_several_columns():
    with pytest.raises(ValueError, match="can't be told from its last layer"):
        Distiller(net(activation="sigmoid"), net(activation="sigmoid", seed=1))


def test_alpha_out_of_range(teacher):
    for alpha in (-0.1, 1.5, None):
        with pytest.raises(ValueError, match="`alpha` must be a number from 0 to 1. Received: alp"):
            Distiller(net(), teacher, alpha=alpha)


def test_an_unbuilt_teacher():
    with pytest.raises(ValueError, match="`teacher` is not built: it has no weights yet"):
        Distiller(net(), keras.Sequential([keras.layers.Dense(3)]))


def test_a_teacher_that_is_the_student():
    student = net()
    with pytest.raises(ValueError, match="The teacher shares variables with the student"):
        Distiller(student, student)


def test_classes_that_differ(teacher):
    with pytest.raises(ValueError, match=r"Received: 'head' of the student with shape \(None, 4\)"):
        Distiller(net(classes=4), teacher)


def test_an_unknown_layer(teacher):
    with pytest.raises(ValueError, match="has no layer 'featrues'. Did you mean 'features'?"):
        Distiller(net(), teacher, FeatureHint("featrues"))


def test_an_unknown_output(teacher):
    with pytest.raises(ValueError, match="The student has no output 'x'. Available: "):
        Distiller(net(), teacher, SoftTargets(output="x"))


def test_layers_that_are_no_names():
    for arguments in ((3,), (None,), ("features", keras.layers.Dense(3))):
        with pytest.raises(ValueError, match="_layer` must be the name of a layer. Received: "):
            FeatureHint(*arguments)


def test_features_that_cannot_match():
    student, teacher = conv_net(), conv_net(seed=1)
    with pytest.raises(ValueError, match="The loss 'feature_hint' can't match these shapes"):
        Distiller(student, teacher, FeatureHint("features", "pool"))
    with pytest.raises(ValueError, match="a vector has no places"):
        Distiller(student, teacher, distillation.AttentionTransfer("pool"))


def test_inputs_that_cannot_match(teacher):
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(CLASSES)])
    with pytest.raises(ValueError, match="Pass `teacher_preprocessor=`"):
        Distiller(student, teacher)


def test_logits_of_a_softmax():
    with pytest.raises(ValueError, match="leave the softmax at the end of the teacher out"):
        Distiller(net(), net(activation="softmax"), distillation.SquaredLogits())


def test_two_losses_of_one_name(teacher):
    with pytest.raises(ValueError, match="pass `name=` to those of one class"):
        Distiller(net(), teacher, [SoftTargets(), SoftTargets(1.0)])


def test_no_loss_on_the_labels(teacher):
    with pytest.raises(ValueError, match="To train without labels, pass `alpha=1`"):
        Distiller(net(), teacher).compile("adam")


def test_labels_missing_where_a_loss_needs_them(data, teacher):
    distiller = Distiller(net(), teacher, distillation.DecoupledTargets(), alpha=1)
    distiller.compile("adam", run_eagerly=True)
    with pytest.raises(ValueError, match="The loss 'decoupled_targets' needs labels"):
        fit(distiller, data[:1])


def test_features_of_several_teachers(teacher):
    with pytest.raises(ValueError, match="Losses of features need a single teacher"):
        Distiller(net(), [teacher, net(seed=2)], FeatureHint("features"))


class OwnStep(keras.Sequential):
    """A student whose training is its own."""

    def train_step(self, *args):
        return super().train_step(*args)


class OwnLoss(keras.Sequential):
    """A student whose loss is its own."""

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("kind", [OwnStep, OwnLoss])
def test_a_student_that_trains_in_its_own_way(teacher, kind):
    student = kind(net().layers)
    student.build((None, 6))
    with pytest.raises(ValueError, match="of its own, and a `Distiller` trains by the usual one"):
        Distiller(student, teacher)


@pytest.mark.parametrize(
    "arguments",
    [
        {"teacher": None},
        {"teacher": []},
        {"teacher": keras.layers.Dense(3)},
        {"teacher": "not_there.keras"},
        {"student": 3},
        {"losses": "soft_targets"},
        {"losses": []},
        {"losses": SoftTargets},
        {"losses": keras.losses.KLDivergence()},
        {"losses": SoftTargets(output=3)},
        {"ensemble": "mean"},
        {"teacher_output": "logit"},
        {"student_output": None},
        {"teacher_preprocessor": 3},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_what_else_is_refused(teacher, arguments):
    """With what was given in the message, and nothing of the user's changed."""
    student = net()
    before = [*weights(student), *weights(teacher)]
    given = {"student": student, "teacher": teacher, **arguments}
    with pytest.raises(ValueError, match="Received: |File not found"):
        Distiller(**given)
    assert_same([*weights(student), *weights(teacher)], before, rtol=0, atol=0)
