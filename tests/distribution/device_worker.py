"""All that needs four logical devices, in one process.

Run by the tests, as devices must be made before anything else:
KERAS_BACKEND=... python device_worker.py FOLDER PART...
A part is `exactness`, `checks`, `refusals` or, on JAX, `split_weights`. It prints a line of JSON:
the largest relative difference of each case to one device, what each check found, and the message
of each refusal.
"""

import contextlib
import json
import os
import pathlib
import sys
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from distribution_cases import (
    CASES,
    DATA,
    IMAGES,
    ODD,
    X,
    Y,
    dataset,
    dense,
    difference,
    norm,
    train,
)
from worker_tools import collected, compiled, dropped, failure, told

from keras_optkit import callbacks, pruning
from keras_optkit.distribution import data_parallel, memory_per_device, model_parallel, split_cpu

FOLDER = pathlib.Path(sys.argv[1])
BACKEND = keras.backend.backend()


def four(**kwargs):
    return data_parallel(4, **kwargs)


def exactness():
    found = {}
    for name in CASES:
        try:
            one = train(name, contextlib.nullcontext)
            several = train(name, four(synchronize_batch_norm=True).scope)
            found[name] = difference(one, several)
        except Exception:
            found[name] = failure()
    return found


def with_callbacks(folder, scope):
    """Trains with the callbacks of Keras, and then with ours, which stop and save and prune."""
    val = {"validation_data": (X[:21], -Y[:21]), "shuffle": False, "verbose": 0}
    model = compiled(scope)
    saved = str(folder / "best-{epoch}.keras")
    keras_own = [
        keras.callbacks.ModelCheckpoint(saved, save_best_only=True),
        keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5),
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
    ]
    histories = [model.fit(**DATA, **ODD, **val, epochs=6, callbacks=keras_own).history]
    ours = [
        callbacks.ReduceOnPlateau(patience=1, factor=0.5),
        callbacks.Pruning(pruning.ConstantSparsity(0.5, 0)),
        callbacks.WeightAveraging("ema", decay=0.5),
        callbacks.EarlyStopping(patience=3),
        callbacks.Resume(folder / "run", verbose=0),
    ]
    histories.append(model.fit(**DATA, **ODD, **val, epochs=6, callbacks=ours).history)
    zeros = [int((w == 0).sum()) for w in model.get_weights()]
    files = sorted(str(f.relative_to(folder)) for f in folder.glob("**/*.keras"))
    best = keras.models.load_model(folder / files[-1]).predict(X, verbose=0)
    return {"values": (histories, model.get_weights(), best), "zeros": zeros, "files": files}


def check_callbacks():
    one = with_callbacks(FOLDER / "one", contextlib.nullcontext)
    several = with_callbacks(FOLDER / "several", four().scope)
    return {
        "callbacks": difference(one["values"], several["values"]),
        "callbacks: zeros": [one["zeros"], several["zeros"]],
        "callbacks: files": [one["files"], several["files"]],
    }


def check_resume():
    """A training that is left after two of four epochs, and goes on."""
    settings = {**DATA, **ODD, "shuffle": False, "verbose": 0, "epochs": 4}
    whole = compiled(four().scope)
    whole.fit(**settings)
    halt = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: (
            (_ for _ in ()).throw(InterruptedError) if epoch == 2 else None
        )
    )
    with contextlib.suppress(InterruptedError):
        resume = callbacks.Resume(FOLDER / "left", verbose=0)
        compiled(four().scope).fit(**settings, callbacks=[resume, halt])
    resume = callbacks.Resume(FOLDER / "left", verbose=0)
    again = compiled(four().scope)
    again.fit(**settings, callbacks=[resume])
    return {
        "resume": difference(whole.get_weights(), again.get_weights()),
        "resume: from": list(resume.resumed_from),
    }


def check_dropout():
    return dropped(four().scope, 4)


def check_plain_norm():
    """Without synchronization: replicas with samples, with fewer, and without any."""
    model = compiled(four().scope, norm)
    model.fit(IMAGES[:41], Y[:41], batch_size=20, epochs=2, shuffle=False, verbose=0)
    moving = [v for v in model.non_trainable_variables if "moving" in v.path]
    copies = [getattr(v.value, "values", [v.value]) for v in moving]
    copies = [[np.asarray(keras.ops.convert_to_numpy(c)) for c in each] for each in copies]
    return {
        "plain norm: spread": max(float(np.ptp(each, axis=0).max()) for each in copies),
        "plain norm: finite": bool(np.isfinite(np.concatenate(copies, None)).all()),
    }


def check_other_methods():
    model, plain = compiled(four().scope), compiled(contextlib.nullcontext)
    for each in (model, plain):
        each.train_on_batch(X[:8], Y[:8])
    found = {
        "train_on_batch": difference(plain.get_weights(), model.get_weights()),
        "test_on_batch": difference(
            plain.test_on_batch(X[:7], Y[:7]), model.test_on_batch(X[:7], Y[:7])
        ),
        "evaluate": difference(
            plain.evaluate(X[:7], Y[:7], verbose=0), model.evaluate(X[:7], Y[:7], verbose=0)
        ),
        "predict_on_batch": difference(
            plain.predict_on_batch(X[:6]), model.predict_on_batch(X[:6])
        ),
        "predict": difference(plain.predict(X[:3], verbose=0), model.predict(X[:3], verbose=0)),
    }
    model.save(FOLDER / "model.keras")
    loaded = keras.models.load_model(FOLDER / "model.keras")
    found["saved: left on it"] = sorted({"fit", "compile", "evaluate"} & set(vars(loaded)))
    found["saved"] = difference(plain.predict(X, verbose=0), loaded.predict(X, verbose=0))
    with four().scope():
        loaded = keras.models.load_model(FOLDER / "model.keras")
    for each in (loaded, plain):
        each.fit(X[:9], Y[:9], verbose=0)
    found["loaded in a scope"] = difference(plain.get_weights(), loaded.get_weights())
    return found


def attention():
    """Each kind of weight that is split."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Embedding(12, 8)(inputs)
    hidden = keras.layers.MultiHeadAttention(4, 2)(hidden, hidden)
    hidden = keras.layers.Conv1D(8, 2, activation="tanh")(hidden)
    hidden = keras.layers.LayerNormalization()(hidden)
    hidden = keras.layers.Dense(8)(keras.layers.Flatten()(hidden))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


def split_weights():
    found = {}
    tokens = np.random.default_rng(0).integers(0, 12, size=(46, 4))
    for name, parts in (("4 parts", 4), ("2 parts, 2 groups", 2)):
        distribution = model_parallel(4, parts, min_size=0)
        models = [compiled(s, attention) for s in (contextlib.nullcontext, distribution.scope)]
        for model in models:
            model.fit(tokens, Y, batch_size=20, epochs=2, shuffle=False, verbose=0)
        one, several = [(m.get_weights(), m.predict(tokens, verbose=0)) for m in models]
        # The bias of a key changes nothing, so what its gradient leaves is rounding.
        path = [v.path for v in models[0].weights]
        for weights in (one[0], several[0]):
            weights.pop(next(i for i, p in enumerate(path) if p.endswith("key/bias")))
        shards = [v.value.addressable_shards[0].data for v in models[1].trainable_variables]
        found[name] = difference(one, several)
        found[f"{name}: bytes"] = [
            sum(shard.nbytes for shard in shards),
            distribution.bytes_per_device,
            sum(v.value.nbytes for v in models[1].trainable_variables),
        ]
        found[f"{name}: memory"] = memory_per_device(models[1])
        found[f"{name}: batch"] = distribution.global_batch_size(1)
    found["describe"] = distribution.describe()
    return found


class OwnLoss(keras.Model):
    """A model whose step has a loss of its own."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(data[0]) - data[1]) ** 2)
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights, strict=True)
        )
        return {"loss": loss}


def refusals():
    distribution = four()
    scope = distribution.scope
    outside = keras.optimizers.SGD(0.1)
    metric = keras.metrics.MeanSquaredError()
    elsewhere = dense()

    def compile_elsewhere():
        with scope():
            elsewhere.compile("sgd", "mse")

    def compile_outside():
        with scope():
            model = dense()
        model.compile("sgd", "mse")

    def compile_again():
        compiled(scope).compile("sgd", "mse")

    def two_scopes():
        with scope(), four().scope():
            pass

    def fit(size=8, **kwargs):
        compiled(scope, **kwargs).fit(X, Y, batch_size=size, verbose=0)

    calls = {
        "model outside": compile_elsewhere,
        "compiled outside": compile_outside,
        "compiled again outside": compile_again,
        "two scopes": two_scopes,
        "optimizer outside": lambda: fit(optimizer=lambda: outside),
        "metric outside": lambda: fit(metrics=[metric]),
        "small batch": lambda: fit(size=3),
        "no such device": lambda: data_parallel(["cpu:0", "cpu:4"]),
        "too many devices": lambda: data_parallel(5),
    }
    if BACKEND == "tensorflow":
        calls["jit_compile"] = lambda: fit(jit_compile=True)
        calls["split already"] = lambda: compiled(scope).fit(
            distribution.strategy.experimental_distribute_dataset(dataset(X, Y))
        )
        calls["own loss"] = lambda: fit(make=OwnLoss)
    else:
        calls["indivisible"] = lambda: fit(size=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return {name: told(call) for name, call in calls.items()}


def checks():
    here = [check_callbacks, check_resume, check_dropout, check_plain_norm, check_other_methods]
    found = collected(here)
    with four().scope() as distribution:
        pass
    found["describe"] = distribution.describe()
    return found


if __name__ == "__main__":
    split_cpu(4)
    (FOLDER / "one").mkdir()
    (FOLDER / "several").mkdir()
    parts = {part.__name__: part for part in (exactness, checks, refusals, split_weights)}
    sys.stdout.write(json.dumps({name: parts[name]() for name in sys.argv[2:]}) + "\n")
