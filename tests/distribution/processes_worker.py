"""All that needs two processes, on torch and on JAX: one of them.

Run by the tests, twice with the variables that tell each process of the other:
python processes_worker.py train FOLDER   the checks; each writes what it found to FOLDER/INDEX.json
python processes_worker.py kill FOLDER    a training of which process 1 is killed on its way
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import traceback

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
    sgd,
    train,
)

from keras_optkit import callbacks
from keras_optkit.distribution import multi_worker

DISTRIBUTION = multi_worker(synchronize_batch_norm=True, startup_timeout=60)
FOLDER = pathlib.Path(sys.argv[2])
BACKEND = keras.backend.backend()
INDEX, GROUP = DISTRIBUTION.process_index, DISTRIBUTION.group
ALONE = contextlib.nullcontext
L = keras.layers
# On JAX all cases are one program over all devices, which four devices of one process run as well.
CASES_HERE = {
    "torch": [name for name in CASES if "steps_per_execution" not in name],
    "jax": ["uneven last batch", "last batch of one", "class weights", "batch norm", "tf.data"],
}[BACKEND]
SETTINGS = {**DATA, **ODD, "shuffle": False, "verbose": 0}


def compiled(scope=DISTRIBUTION.scope, make=dense, optimizer=None, **kwargs):
    keras.utils.set_random_seed(3)
    with scope():
        model = make()
        model.compile(**{"optimizer": (optimizer or sgd())(), "loss": "mse", **kwargs})
    return model


def check_exactness():
    found = {}
    for name in CASES_HERE:
        try:
            together = train(name, DISTRIBUTION.scope)
            found[name] = difference(train(name, ALONE), together)
        except Exception:
            found[name] = traceback.format_exc(limit=-4)[-1500:]
    return found


def all_methods(scope):
    model = compiled(scope, metrics=["mae"])
    results = [model.train_on_batch(X[:6], Y[:6]), model.test_on_batch(X[:3], Y[:3])]
    results += [model.evaluate(X[:21], Y[:21], batch_size=10, verbose=0)]
    results += [model.predict(X[:21], batch_size=10, verbose=0), model.predict_on_batch(X[:1])]
    return [np.asarray(result) for result in results]


def check_methods():
    return {"methods": difference(all_methods(ALONE), all_methods(DISTRIBUTION.scope))}


def check_shuffling():
    """Without a seed of the script, each process would go its own way."""
    model = compiled()
    np.random.seed(INDEX)
    if BACKEND == "torch":
        import torch

        torch.manual_seed(INDEX)
    model.fit(**{**SETTINGS, "shuffle": True}, epochs=2)
    return {"shuffled": [float(np.abs(w).sum()) for w in model.get_weights()]}


def check_callbacks():
    """The chief decides when to stop, and writes; the other writes nothing."""
    folder = FOLDER / f"files-{INDEX}"
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", INDEX == 0 and epoch == 1)
    )
    model = compiled()
    used = [
        stop,
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.keras")),
        callbacks.TrainingReport(str(folder / "report"), every=0),
    ]
    history = model.fit(**SETTINGS, epochs=5, callbacks=used).history
    model.save(folder / "end.keras")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.keras"))
    found = {"epochs": len(history["loss"]), "files": files}
    if INDEX == 0:
        loaded = keras.models.load_model(folder / "end.keras")
        found["saved"] = difference(model.get_weights(), loaded.get_weights())
    return found


def check_resume():
    """Goes on where the processes of `kill` were left."""
    whole = compiled(ALONE)
    whole.fit(**SETTINGS, epochs=4)
    resume = callbacks.Resume(FOLDER / "left", verbose=0)
    again = compiled()
    again.fit(**SETTINGS, epochs=4, callbacks=[resume])
    return {
        "resume": difference(whole.get_weights(), again.get_weights()),
        "resume: from": list(resume.resumed_from or ()),
    }


class OwnLoss(keras.Model):
    """A step with a loss of its own, a penalty on the weights, and noise that both draw alike."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        import torch

        x, y = data[:2]
        x = x + 0.1 * keras.random.normal(tuple(x.shape), seed=self.seeds)
        loss = ((self(x) - y) ** 2).amax(0).sum() + (self.dense.kernel.value**2).sum()
        self.zero_grad()
        loss.backward()
        weights = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": loss.detach()}


class Adversaries(keras.Model):
    """Two models, one called on what the other made, with an optimizer for each."""

    def __init__(self):
        super().__init__()
        self.maker = keras.Sequential([keras.Input((6,)), L.Dense(3, "tanh")])
        self.judge = keras.Sequential([keras.Input((3,)), L.Dense(4, "tanh"), L.Dense(1)])

    def compile(self, optimizer, **kwargs):
        super().compile(optimizer=optimizer, **kwargs)
        self.second = keras.optimizers.SGD(0.05)

    def call(self, x):
        return self.judge(self.maker(x))

    def train_step(self, data):
        import torch

        x, y = data[:2]
        logits = {}
        for part, optimizer in ((self.judge, self.optimizer), (self.maker, self.second)):
            both = self.judge(torch.cat([self.maker(x), y]))
            sign = 1 if part is self.judge else -1
            loss = sign * (torch.tanh(both[: len(x)]).mean() - torch.tanh(both[len(x) :]).mean())
            self.zero_grad()
            loss.backward()
            weights = part.trainable_weights
            with torch.no_grad():
                optimizer.apply([w.value.grad for w in weights], weights)
            logits[part.name] = loss.detach()
        return {"loss": sum(logits.values()), "judge": logits[self.judge.name]}


class Adding(L.Layer):
    """A layer that adds a mean over samples to the loss."""

    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


def adding():
    return keras.Sequential([keras.Input((6,)), L.Dense(4), Adding(), L.Dense(3)])


def check_own_steps():
    found = {}
    for name, make in {"own loss": OwnLoss, "two models": Adversaries, "add_loss": adding}.items():
        ends = []
        for scope in (ALONE, DISTRIBUTION.scope):
            model = compiled(scope, make)
            # The last batch leaves the first process without a sample.
            history = model.fit(X[:41], Y[:41], **ODD, shuffle=False, epochs=2, verbose=0).history
            ends.append((history, model.get_weights()))
        found[name] = difference(*ends)
    return found


def check_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        ends = [compiled(scope) for scope in (ALONE, DISTRIBUTION.scope)]
        for model in ends:
            model.fit(**SETTINGS)
        return {"mixed precision": difference(*[model.get_weights() for model in ends])}
    finally:
        keras.config.set_dtype_policy("float32")


def check_ddp():
    """Against DistributedDataParallel and a training loop written by hand."""
    import torch

    ours = compiled(optimizer=lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    start = [torch.tensor(w) for w in ours.get_weights()]
    ours.fit(X[:32], Y[:32], batch_size=16, epochs=2, shuffle=False, verbose=0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    with torch.no_grad():
        for own, value in zip(net.parameters(), start, strict=True):
            own.copy_(value.mT if value.ndim > 1 else value)
    net = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for place in (0, 16) * 2:
        part = slice(place + 8 * INDEX, place + 8 * INDEX + 8)
        optimizer.zero_grad()
        error = net(torch.tensor(X[part])) - torch.tensor(Y[part])
        (error**2).mean().backward()
        optimizer.step()
    theirs = [own.detach().numpy().T for own in net.parameters()]
    return {"DDP": difference(theirs, ours.get_weights())}


def check_randomness():
    """How often each input was dropped, by the gradient of a kernel on inputs of one."""

    def make():
        drop = L.Dropout(0.5, seed=1)
        head = L.Dense(1, use_bias=False, kernel_initializer="ones")
        return keras.Sequential([keras.Input((500,)), drop, head])

    def kernel():
        model = compiled(
            make=make, optimizer=lambda: keras.optimizers.SGD(1.0), loss=lambda y, out: out
        )
        model.fit(np.ones((2, 500)), np.ones((2, 1)), batch_size=2, verbose=0)
        return 1 - model.get_weights()[0]

    first = kernel()
    return {
        "dropped: values": sorted({round(float(v), 3) for v in first.ravel()}),
        "dropped: again": difference(first, kernel()),
    }


def check_plain_norm():
    """The moving statistics are the mean of those that each part gives, by its samples."""
    from keras_optkit.distribution.torch_processes import TorchProcesses

    plain = TorchProcesses(None, False, GROUP)

    def make():
        return keras.Sequential([keras.Input((2,)), L.BatchNormalization(momentum=0.5)])

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
    def fit(*data, size=8, **kwargs):
        compiled(**kwargs).fit(*(data or (X, Y)), batch_size=size, verbose=0)

    calls = {
        "small batch": lambda: fit(size=1),
        "other data": lambda: fit(X[: 40 + INDEX], Y[: 40 + INDEX]),
    }
    if BACKEND == "torch":
        import torch

        def split():
            data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
            sampler = torch.utils.data.DistributedSampler(data)
            loader = torch.utils.data.DataLoader(data, sampler=sampler, batch_size=8)
            compiled().fit(loader, verbose=0)

        def one_row():
            inputs = keras.Input((6,))
            outputs = L.Lambda(lambda x: keras.ops.sum(x, 0, keepdims=True), output_shape=(6,))
            return keras.Model(inputs, L.Dense(3)(outputs(inputs)))

        class Untracked(OwnLoss):
            def train_step(self, data):
                self.zero_grad()
                loss = self(data[0]).sum()
                loss.backward()
                torch.optim.SGD(self.parameters(), 0.1).step()
                return {"loss": loss.detach()}

        calls |= {
            "jit_compile": lambda: fit(jit_compile=True),
            "split already": split,
            "shuffled apart": lambda: compiled().fit(dataset(X + INDEX, Y), verbose=0),
            "one row": lambda: fit(make=one_row),
            "own optimizer": lambda: fit(make=Untracked),
            "several devices": lambda: multi_worker(2),
        }
    else:
        calls["indivisible"] = lambda: fit(size=9)
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = "nothing"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return {"refusals": found}


def kill():
    """Trains, and ends process 1 in the third of four epochs."""

    batches = iter(range(100))

    def fall(batch, logs):
        if INDEX == 1 and next(batches) == 6:
            os.kill(os.getpid(), signal.SIGKILL)

    model = compiled()
    used = [
        callbacks.Resume(FOLDER / "left", verbose=0),
        keras.callbacks.LambdaCallback(on_train_batch_end=fall),
    ]
    model.fit(**SETTINGS, epochs=4, callbacks=used)


def checks():
    here = [check_exactness, check_methods, check_shuffling, check_callbacks, check_resume]
    if BACKEND == "torch":
        here += [check_own_steps, check_mixed_precision, check_ddp, check_randomness]
        here += [check_plain_norm]
    found = {}
    for check in [*here, refusals]:
        try:
            found.update(check())
        except Exception:
            found[check.__name__] = traceback.format_exc(limit=-6)[-2500:]
    found["describe"] = DISTRIBUTION.describe()
    return found


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill()
    else:
        (FOLDER / f"{INDEX}.json").write_text(json.dumps(checks()))
