"""The parts in Keras scripts that were not written for them."""

import tempfile

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import (
    EarlyStopping,
    GroupSparsity,
    LearningRate,
    Pruning,
    ReduceOnPlateau,
    Resume,
    TimeBudget,
    TrainingReport,
    WeightAveraging,
)
from keras_optkit.distillation import Distiller, SquaredLogits
from keras_optkit.distribution import memory_per_device, place_layers
from keras_optkit.export import to_litert
from keras_optkit.pruning import PolynomialDecay, prune_channels
from keras_optkit.schedules import OneCycle
from keras_optkit.tuning import OptkitHyperModel, RandomSearch

L = keras.layers
BATCH, STEPS = 8, 8


def parts(folder):
    return [
        LearningRate(OneCycle(0.05, 24)),
        Pruning(PolynomialDecay(0.0, 0.5, 0, 12, frequency=4)),
        ReduceOnPlateau("loss", 0.5, patience=1, min_delta=0.01, warmup=4),
        EarlyStopping("loss", patience=9, restore_best_weights=True),
        WeightAveraging("ema", decay=0.5),
        TimeBudget("10h"),
        TrainingReport(f"{folder}/report", every=0),
        Resume(f"{folder}/run", every="5step", verbose=0),
    ]


def arrays(*names):
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(BATCH * STEPS, 4)).astype("float32") for name in names}
    y = (sum(x.values()).sum(axis=1) > 0).astype("float32")[:, None]
    return (x if len(names) > 1 else x[names[0]]), y


def check(model, data, labels=None, **kwargs):
    with tempfile.TemporaryDirectory() as folder:
        used = parts(folder)
        history = model.fit(data, labels, epochs=3, verbose=0, callbacks=used, **kwargs).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["sparsity"][-1] == pytest.approx(0.5, abs=0.02)
    assert history["learning_rate"][-1] < history["learning_rate"][0]
    # And the model goes on as the user's own.
    model.fit(data, labels, verbose=0, **kwargs)


def two_inputs():
    inputs = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    x = L.concatenate([L.Dense(8, activation="relu")(i) for i in inputs.values()])
    return keras.Model(inputs, L.Dense(1, activation="sigmoid")(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = L.Dense(8, activation="relu")
        self.head = L.Dense(1, activation="sigmoid", dtype="float32")

    def call(self, inputs, training=False):
        return self.head(self.hidden(inputs))


def test_a_functional_model_with_two_inputs():
    model = two_inputs()
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    check(model, *arrays("left", "right"), batch_size=BATCH)


@pytest.mark.backends("tensorflow")
def test_layers_on_two_devices():
    model = two_inputs()
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], steps_per_execution=2)
    place_layers(model, ["cpu:0", "cpu:1"])
    check(model, *arrays("left", "right"), batch_size=BATCH)
    assert set(memory_per_device(model)) == {"cpu:0", "cpu:1"}


def test_a_subclassed_model_that_was_called_once():
    x, y = arrays("x")
    model = Subclassed()
    model(x[:1])
    model.compile("adam", "binary_crossentropy")
    check(model, x, y, batch_size=BATCH)


@pytest.mark.backends("tensorflow")
def test_a_subclassed_model_without_weights_is_told_so_before_the_first_step(tmp_path):
    # On JAX and torch `fit` itself makes the weights before any callback is called.
    x, y = arrays("x")
    model = Subclassed()
    model.compile("adam", "binary_crossentropy")
    with pytest.raises(ValueError, match="no weights yet.*call the model once"):
        model.fit(x, y, batch_size=BATCH, epochs=3, verbose=0, callbacks=parts(tmp_path))
    assert not model.built


def test_a_custom_train_step():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        class Own(Subclassed):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = self.compute_loss(y=y, y_pred=self(x, training=True))
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(
                    zip(gradients, self.trainable_variables, strict=True)
                )
                self.metrics[0].update_state(loss)
                return {"loss": loss}

    elif keras.backend.backend() == "torch":

        class Own(Subclassed):
            def train_step(self, data):
                x, y = data
                self.zero_grad()
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
                loss.backward()
                weights = self.trainable_weights
                self.optimizer.apply([w.value.grad for w in weights], weights)
                self.metrics[0].update_state(loss.detach())
                return {"loss": loss.detach()}

    else:

        class Own(Subclassed):
            def train_step(self, state, data):
                logs, state = super().train_step(state, data)
                return {**logs, "mine": logs["loss"]}, state

    x, y = arrays("x")
    model = Own()
    model(x[:1])
    model.compile("adam", "binary_crossentropy")
    check(model, x, y, batch_size=BATCH)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = Subclassed()
        x, y = arrays("x")
        model(x[:1])
        model.compile("adam", "binary_crossentropy")
    finally:
        keras.config.set_dtype_policy("float32")
    check(model, x, y, batch_size=BATCH)


@pytest.mark.backends("tensorflow", "jax")
def test_steps_per_execution():
    x, y = arrays("x")
    model = Subclassed()
    model(x[:1])
    model.compile("adam", "binary_crossentropy", steps_per_execution=4)
    check(model, x, y, batch_size=BATCH)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_dataset_of_unknown_length():
    import tensorflow as tf

    x, y = arrays("x")
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: True).batch(BATCH)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    model = Subclassed()
    model(x[:1])
    model.compile("adam", "binary_crossentropy")
    check(model, dataset)


def test_a_py_dataset():
    class Batches(keras.utils.PyDataset):
        def __init__(self, x, y):
            super().__init__()
            self.x, self.y = x, y

        def __len__(self):
            return STEPS

        def __getitem__(self, i):
            rows = slice(i * BATCH, (i + 1) * BATCH)
            return self.x[rows], self.y[rows]

    x, y = arrays("x")
    model = Subclassed()
    model(x[:1])
    model.compile("adam", "binary_crossentropy")
    check(model, Batches(x, y))


def test_a_distiller_of_models_with_two_inputs():
    model = Distiller(two_inputs(), two_inputs(), SquaredLogits())
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    check(model, *arrays("left", "right"), batch_size=BATCH)


def test_a_distiller_of_a_subclassed_student():
    x, y = arrays("x")
    student, teacher = Subclassed(), Subclassed()
    for model in (student, teacher):
        model(x[:1])
    told = {"student_output": "probabilities", "teacher_output": "probabilities"}
    model = Distiller(student, teacher, SquaredLogits(), **told)
    steps = 1 if keras.backend.backend() == "torch" else 4
    model.compile("adam", "binary_crossentropy", steps_per_execution=steps)
    check(model, x, y, batch_size=BATCH)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_channels_leave_a_model_with_two_inputs_and_a_step_of_its_own(tmp_path):
    """Pulled on data of unknown length, removed, taught by the original, and exported."""
    import tensorflow as tf

    class Own(keras.Model):
        def train_step(self, *args, **kwargs):
            self.stepped = True
            return super().train_step(*args, **kwargs)

    x, y = arrays("left", "right")
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda *_: True).batch(BATCH)
    graph = two_inputs()
    model = Own(graph.inputs, graph.outputs)
    steps = 1 if keras.backend.backend() == "torch" else 4
    model.compile("adam", "binary_crossentropy", steps_per_execution=steps)
    pull = GroupSparsity(0.1, duration="8step")
    history = model.fit(dataset, epochs=2, verbose=0, callbacks=[pull]).history
    assert history["loss"][-1] < history["loss"][0]
    assert model.stepped
    small = prune_channels(model, 0.6, "taylor", data=dataset)
    assert type(small) is Own
    assert small.count_params() <= 0.6 * model.count_params()
    # A student must not have a step of its own: the Distiller has one.
    student = keras.Model(small.inputs, small.outputs)
    distiller = Distiller(student, model, SquaredLogits())
    distiller.compile("adam", "binary_crossentropy")
    history = distiller.fit(dataset, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    if keras.backend.backend() == "tensorflow":
        # Elsewhere a child process converts, which takes ten seconds.
        file = to_litert(small, tmp_path / "small.tflite", representative_data=dataset)
        want = small.predict(x, verbose=0)
        np.testing.assert_allclose(file.predict(x), want, atol=1e-5)


@pytest.mark.parametrize("kind", ["two inputs in half precision", "subclassed, unknown length"])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_search(kind, tmp_path):
    def build():
        keras.config.set_dtype_policy("mixed_bfloat16" if "half" in kind else "float32")
        try:
            model = two_inputs() if "two" in kind else Subclassed()
        finally:
            keras.config.set_dtype_policy("float32")
        steps = 1 if keras.backend.backend() == "torch" else 4
        model.compile("adam", "binary_crossentropy", steps_per_execution=steps)
        return model

    if "two" in kind:
        x, y = arrays("left", "right")
        data = {"x": x, "y": y, "batch_size": BATCH}
    else:
        import tensorflow as tf

        dataset = tf.data.Dataset.from_tensor_slices(arrays("x")).filter(lambda *_: True)
        data = {"x": dataset.batch(BATCH)}
    space = {"learning_rate": (1e-3, 1e-1), "weight_decay": True}
    tuner = RandomSearch(
        OptkitHyperModel(build, space), "loss", max_trials=2, directory=str(tmp_path), seed=0
    )
    tuner.search(**data, epochs=2, verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 2
    (model,) = tuner.get_best_models()
    x, y = arrays("left", "right") if "two" in kind else arrays("x")
    found = model.evaluate(x, y, verbose=0)
    assert found < 0.75 and model.compute_dtype == ("bfloat16" if "half" in kind else "float32")
