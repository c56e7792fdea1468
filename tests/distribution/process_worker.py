"""All that needs two processes: what each of them runs, on every backend.

python process_worker.py FOLDER PART
A part is `killed`, in which process 1 is killed, or `rest`, which goes on with what was left and
does all else. Each process writes what it found to FOLDER/found-INDEX.json.
"""

import contextlib
import json
import os
import pathlib
import pickle
import random
import signal
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from distribution_cases import (
    DATA,
    FOREIGN,
    IMAGES,
    ODD,
    PROCESS_CASES,
    X,
    Y,
    adding,
    dataset,
    difference,
    sgd,
    train,
)
from worker_tools import collected, dropped, failure, told
from worker_tools import compiled as compiled_in

from keras_optkit import callbacks
from keras_optkit.distribution import auto, multi_worker

FOLDER = pathlib.Path(sys.argv[1])
BACKEND = keras.backend.backend()
DISTRIBUTION = auto(synchronize_batch_norm=True)
ME = DISTRIBUTION.process_index
ALONE = contextlib.nullcontext
# For what this process would write, if it did.
OWN = FOLDER / f"process-{ME}"
SETTINGS = {**DATA, **ODD, "verbose": 0}


def compiled(scope=DISTRIBUTION.scope, *args, **kwargs):
    return compiled_in(
        scope, *args, **{"optimizer": sgd(momentum=0.9), "metrics": ["mae"], **kwargs}
    )


def of_all(value):
    """Returns what each process has, in the chief, and `None` in the others."""
    found = DISTRIBUTION.group.gather(pickle.dumps(value))
    return None if found is None else [pickle.loads(each) for each in found]


def worst(name, several, one):
    """What the largest difference is of what each process has to what the chief computes alone."""
    every = of_all(several)
    if every is None:
        return {}
    failed = [each for each in every if isinstance(each, str)]
    if failed:
        return {name: failed[0]}
    one = one()
    return {name: max(difference(one, each) for each in every)}


def check_exactness():
    found = {}
    for name in [*PROCESS_CASES[BACKEND], *FOREIGN]:
        try:
            several = train(name, DISTRIBUTION.scope)
        except Exception:
            several = failure()
        found |= worst(name, several, lambda name=name: train(name, ALONE))
    return found


def long(scope, callbacks=()):
    """A training of four epochs of three steps, and what became of it."""
    model = compiled(scope)
    history = model.fit(**SETTINGS, epochs=4, callbacks=list(callbacks))
    return model.get_weights(), history.history


class At(keras.callbacks.Callback):
    """Does something in one process when a batch of an epoch begins."""

    def __init__(self, process, epoch, batch, act):
        super().__init__()
        self.at = (process, epoch, batch)
        self.act = act

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (ME, self.epoch, batch) == self.at:
            self.act(self.model)


def killed():
    """A training whose process 1 is killed in the middle of the third epoch."""
    kill = At(1, 2, 2, lambda model: os.kill(os.getpid(), signal.SIGKILL))
    long(DISTRIBUTION.scope, [callbacks.Resume(FOLDER / "left", every=2), kill])
    return {}


def check_resume():
    resume = callbacks.Resume(FOLDER / "left", every=2, verbose=0)
    again = long(DISTRIBUTION.scope, [resume])
    return {
        "resumed from": list(resume.resumed_from or ()),
        **worst("resume", again, lambda: long(ALONE)),
    }


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
    settings = {**SETTINGS, "validation_data": (X[:20], -Y[:20]), "shuffle": False}
    history = model.fit(**{**settings, "epochs": 9, "verbose": 2}, callbacks=writing).history
    model.save(OWN / "model.keras")
    files = sorted(str(f.relative_to(OWN)) for f in OWN.rglob("*") if not f.is_dir())
    found = {"files": [f for f in files if not f.startswith("board")], "all files": len(files)}
    found |= {"epochs": len(history["loss"]), "stopped": stop.stopped_reason.value}
    every = of_all((model.get_weights(), history))
    if every is not None:
        for name in ("best-1", "model"):
            saved = keras.models.load_model(OWN / f"{name}.keras").get_weights()
            found[f"files: {name}"] = max(difference(saved, weights) for weights, _ in every)
        found["files: alike"] = max(difference(every[0], each) for each in every)
    return found


def check_stops():
    def stop(model):
        model.stop_training = True

    model = compiled()
    stops = [At(1, 0, 1, stop), At(0, 2, 0, stop), callbacks.TimeBudget("1h")]
    epochs = len(model.fit(**SETTINGS, epochs=5, callbacks=stops).epoch)
    return {"stopped in": [epochs, int(keras.ops.convert_to_numpy(model.optimizer.iterations))]}


def check_seeds():
    """Nobody sets a seed, and the chief draws some numbers more than the others."""
    if DISTRIBUTION.is_chief:
        random.random()
        np.random.random(3)
        if BACKEND == "torch":
            import torch

            torch.rand(3)
    with DISTRIBUTION.scope():
        model = keras.Sequential([keras.layers.Dense(3)])
        model.compile("sgd", "mse")
    model.fit(**SETTINGS, shuffle=True)
    before = model.get_weights()
    model.fit(**SETTINGS, shuffle=True)
    every = of_all(model.get_weights())
    found = {"moved": difference(before, model.get_weights())}
    if every is not None:
        found["seeds"] = difference(every[0], every[1])
    return found


def all_methods(scope):
    model = compiled(scope)
    size = 6 if BACKEND == "jax" else 9
    results = [model.train_on_batch(X[:size], Y[:size]), model.test_on_batch(X[:7], Y[:7])]
    results += [model.evaluate(X[:7], Y[:7], verbose=0)]
    results += [model.predict(X[:8], batch_size=7, verbose=0), model.predict_on_batch(X[:1])]
    return [np.asarray(result) for result in results]


def check_methods():
    return worst("other methods", all_methods(DISTRIBUTION.scope), lambda: all_methods(ALONE))


def check_dropout():
    return dropped(DISTRIBUTION.scope, 2)


def check_own_steps():
    from torch_steps import Adversaries, OwnLoss

    def fit(scope, make):
        model = compiled(scope, make, metrics=None)
        # The last batch leaves the first process without a sample.
        history = model.fit(X[:41], Y[:41], **ODD, shuffle=False, epochs=2, verbose=0).history
        return history, model.get_weights()

    found = {}
    for name, make in {"own loss": OwnLoss, "two models": Adversaries, "add_loss": adding}.items():
        found |= worst(name, fit(DISTRIBUTION.scope, make), lambda make=make: fit(ALONE, make))
    return found


def check_ddp():
    """Against DistributedDataParallel and a training loop written by hand."""
    from torch_steps import by_hand

    ours = compiled()
    start = ours.get_weights()
    ours.fit(X[:32], Y[:32], batch_size=16, epochs=2, shuffle=False, verbose=0)
    return {"DDP": difference(by_hand(start, X[:32], Y[:32], ME), ours.get_weights())}


def check_plain_norm():
    """The moving statistics are the mean of those that each part gives, by its samples."""
    plain = multi_worker()

    def make():
        return keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(momentum=0.5)])

    model = compiled(plain.scope, make)
    x = IMAGES[:5, 0, 0]
    model.fit(x, x, batch_size=5, shuffle=False, verbose=0)
    parts = [(x[:2], 2 / 5), (x[2:], 3 / 5)]
    mean = sum(0.5 * part.mean(0) * share for part, share in parts)
    variance = sum((0.5 + 0.5 * part.var(0)) * share for part, share in parts)
    found = [v.copy() for v in model.get_weights()[2:]]
    model.fit(x[:1], x[:1], batch_size=2, verbose=0)
    return {
        "plain norm": difference([mean, variance], found),
        "plain norm: finite": bool(np.isfinite(np.concatenate(model.get_weights())).all()),
    }


def refusals():
    def fit(x=X, y=Y, size=20, **kwargs):
        compiled(**kwargs).fit(x, y, batch_size=size, verbose=0)

    calls = {
        "other batch size": lambda: fit(size=20 + 2 * ME),
        "other data": lambda: fit(X[ME:], Y[ME:]),
        "shuffled apart": lambda: fit(X[:: 1 - 2 * ME], Y[:: 1 - 2 * ME]),
        "other method": lambda: getattr(compiled(), ["fit", "evaluate"][ME])(**DATA),
        "small batch": lambda: fit(size=1),
        "other devices": lambda: multi_worker(3),
    }
    if BACKEND == "jax":
        calls["indivisible"] = lambda: fit(size=9)
    else:
        calls["jit_compile"] = lambda: fit(jit_compile=True)
    if BACKEND == "torch":
        import torch
        from torch_steps import Untracked

        def split():
            data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
            sampler = torch.utils.data.DistributedSampler(data)
            loader = torch.utils.data.DataLoader(data, sampler=sampler, batch_size=8)
            compiled().fit(loader, verbose=0)

        def one_row():
            inputs = keras.Input((6,))
            one = keras.layers.Lambda(
                lambda x: keras.ops.sum(x, 0, keepdims=True), output_shape=(6,)
            )
            return keras.Model(inputs, keras.layers.Dense(3)(one(inputs)))

        calls |= {
            "steps_per_execution": lambda: fit(steps_per_execution=2),
            "split already": split,
            "dataset shuffled apart": lambda: compiled().fit(dataset(X + ME, Y), verbose=0),
            "one row": lambda: fit(make=one_row),
            "own optimizer": lambda: fit(make=Untracked),
        }
    return {f"refused: {name}": told(call) for name, call in calls.items()}


def rest():
    of_torch = [check_own_steps, check_ddp, check_plain_norm] if BACKEND == "torch" else []
    # The first one, as the others set seeds.
    checks = [check_seeds, check_resume, check_files, check_stops, check_methods, check_dropout]
    checks += [*of_torch, refusals, check_exactness]
    return {
        "describe": DISTRIBUTION.describe(),
        "again": auto().num_devices,
        "size": [DISTRIBUTION.num_processes, DISTRIBUTION.global_batch_size(8)],
        # Where a check fails in one process, the other may wait for it, or speak of another check.
        **collected(checks, go_on=False),
    }


if __name__ == "__main__":
    result = {"killed": killed, "rest": rest}[sys.argv[2]]()
    (FOLDER / f"found-{ME}.json").write_text(json.dumps(result))
