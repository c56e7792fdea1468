"""All that needs several processes: what each of them runs, started by `launch`.

python process_worker.py FOLDER PART...
A part is `killed`, in which a process is killed, or `rest`, which goes on with what was left and
does all else. Each process writes found-<index>.json into the folder.
"""

import contextlib
import json
import os
import pathlib
import pickle
import signal
import sys
import traceback

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from distribution_cases import DATA, ODD, PROCESS_CASES, X, Y, dense, difference, train

from keras_optkit import callbacks
from keras_optkit.distribution import auto

FOLDER = pathlib.Path(sys.argv[1])
DISTRIBUTION = auto(synchronize_batch_norm=True)
ME = DISTRIBUTION.process_index
# For what this process would write, if it did.
OWN = FOLDER / f"process-{ME}"


def of_all(value):
    """Returns what each process has, in the chief, and `None` in the others."""
    found = DISTRIBUTION.group.gather(pickle.dumps(value))
    return None if found is None else [pickle.loads(each) for each in found]


def exactness():
    found = {}
    for name in PROCESS_CASES:
        several = of_all(train(name, DISTRIBUTION.scope))
        if several is not None:
            one = train(name, contextlib.nullcontext)
            found[name] = max(difference(one, each) for each in several)
    return found


def compiled(scope=DISTRIBUTION.scope, **kwargs):
    keras.utils.set_random_seed(3)
    with scope():
        model = dense()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, "mse", **{"metrics": ["mae"], **kwargs})
    return model


def long(callbacks=(), epochs=4):
    """A training of four epochs of three steps; and what became of it."""
    model = compiled()
    history = model.fit(**DATA, **ODD, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model.get_weights(), history.history


class Kill(keras.callbacks.Callback):
    """Kills a process in the middle of the third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch, ME) == (2, 2, 1):
            os.kill(os.getpid(), signal.SIGKILL)


def killed():
    long([callbacks.Resume(FOLDER / "left", every=2), Kill()])


def check_resume():
    resume = callbacks.Resume(FOLDER / "left", every=2, verbose=0)
    values = of_all((long([resume]), long()))
    found = {"resumed from": list(resume.resumed_from or ())}
    if values is not None:
        found["resume"] = max(difference(whole, again) for again, whole in values)
    return found


def check_files():
    """Callbacks that write, each process into a folder of its own."""
    OWN.mkdir()
    stop = callbacks.EarlyStopping(patience=2, restore_best_weights=True, path=OWN / "kept.keras")
    writing = [
        keras.callbacks.ModelCheckpoint(str(OWN / "best-{epoch}.keras"), save_best_only=True),
        keras.callbacks.CSVLogger(str(OWN / "log.csv")),
        keras.callbacks.TensorBoard(str(OWN / "board"), write_graph=False),
        keras.callbacks.BackupAndRestore(str(OWN / "backup"), delete_checkpoint=False),
        callbacks.TrainingReport(OWN / "report", every=0),
        stop,
    ]
    model = compiled()
    settings = {"validation_data": (X[:21], -Y[:21]), "epochs": 9, "verbose": 2}
    history = model.fit(**DATA, **ODD, **settings, callbacks=writing).history
    model.save(OWN / "model.keras")
    files = sorted(str(f.relative_to(OWN)) for f in OWN.rglob("*") if not f.is_dir())
    found = {"files": [f for f in files if not f.startswith("board")], "all files": len(files)}
    found |= {"epochs": len(history["loss"]), "stopped": stop.stopped_reason.value}
    every = of_all((model.get_weights(), history))
    if every is not None:
        best = keras.models.load_model(OWN / "best-1.keras").get_weights()
        found["files: best"] = max(difference(best, weights) for weights, _ in every)
        found["files: alike"] = max(difference(every[0], each) for each in every)
    return found


class StopIn(keras.callbacks.Callback):
    """Stops a process in a batch of an epoch."""

    def __init__(self, process, epoch, batch):
        super().__init__()
        self.at = (process, epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (ME, self.epoch, batch) == self.at:
            self.model.stop_training = True


def check_stops():
    model = compiled()
    stops = [StopIn(1, 0, 1), StopIn(0, 2, 0), callbacks.TimeBudget("1h")]
    epochs = len(model.fit(**DATA, **ODD, epochs=5, verbose=0, callbacks=stops).epoch)
    return {"stopped in": [epochs, int(model.optimizer.iterations.numpy())]}


def check_seeds():
    """Nobody sets a seed, and the chief draws some numbers more than the others."""
    if DISTRIBUTION.is_chief:
        np.random.random(3)
    with DISTRIBUTION.scope():
        model = keras.Sequential([keras.layers.Dense(3)])
        model.compile("sgd", "mse")
    model.fit(**DATA, **ODD, verbose=0, shuffle=True)
    before = model.get_weights()
    model.fit(**DATA, **ODD, verbose=0, shuffle=True)
    every = of_all(model.get_weights())
    found = {"moved": difference(before, model.get_weights())}
    if every is not None:
        found["seeds"] = difference(every[0], every[1])
    return found


def check_other_methods():
    model = compiled()
    model.train_on_batch(X[:9], Y[:9])
    values = model.test_on_batch(X[:7], Y[:7]), model.evaluate(X[:7], Y[:7], verbose=0)
    every = of_all((values, model.predict(X[:1], verbose=0), model.predict_on_batch(X[:5])))
    if every is None:
        return {}
    plain = compiled(contextlib.nullcontext)
    plain.train_on_batch(X[:9], Y[:9])
    values = plain.test_on_batch(X[:7], Y[:7]), plain.evaluate(X[:7], Y[:7], verbose=0)
    one = (values, plain.predict(X[:1], verbose=0), plain.predict_on_batch(X[:5]))
    return {"other methods": max(difference(one, each) for each in every)}


def refusals():
    calls = {
        "other batch size": lambda: compiled().fit(**DATA, batch_size=20 + ME, verbose=0),
        "other data": lambda: compiled().fit(X[ME:], Y[ME:], batch_size=20, verbose=0),
        "other method": lambda: getattr(compiled(), ["fit", "evaluate"][ME])(**DATA),
        "small batch": lambda: compiled().fit(**DATA, batch_size=1, verbose=0),
        "other devices": lambda: auto().__class__(3, False, DISTRIBUTION.group),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "nothing"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def rest():
    found = {"describe": DISTRIBUTION.describe(), "again": auto().num_devices}
    found["size"] = [DISTRIBUTION.num_processes, DISTRIBUTION.global_batch_size(8)]
    for check in (
        check_seeds,
        check_resume,
        check_files,
        check_stops,
        check_other_methods,
        refusals,
        exactness,
    ):
        try:
            found.update(check())
        except Exception:
            found[check.__name__] = traceback.format_exc(limit=-4)[-2500:]
            break
    return found


if __name__ == "__main__":
    for part in sys.argv[2:]:
        result = globals()[part]()
        (FOLDER / f"found-{ME}.json").write_text(json.dumps(result))
