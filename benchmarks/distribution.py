"""Several logical devices of one CPU: images per second, and how near to one device they end.

Without arguments: images per second of a small convolutional net on one device, and on two by the
backend's engine as one writes it by hand, and by `data_parallel`. The variants take turns, epoch by
epoch, so that drift of the machine hits all alike; the table shows medians.

With `exact`: each case of tests/distribution on four devices, by `data_parallel` and by the engine
alone; the largest difference to one device of loss, metrics, weights and outputs, relative to the
largest number of each array. The engine alone runs in a process for each case, as it may hang.

With `processes`: images per second of the same net in one process, and in two that share the
cores, by `multi_worker` and by the engine by hand: on JAX by `fit` in the scope of `DataParallel`,
on the slices of a process; on TensorFlow, where `fit` of Keras fails with the engine, and on torch
(DistributedDataParallel) in a loop, with the optimizer and the metrics of Keras.

With `bytes`: what each of four devices holds of a net of 1.9 million weights, and of Adam's state
for them, after a step: on one device, with layers placed (TensorFlow), with weights split (JAX).

Usage: KERAS_BACKEND=... python benchmarks/distribution.py
    [ROUNDS | exact | bytes | processes [ROUNDS]]
"""

import contextlib
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_optkit.distribution import (
    data_parallel,
    launch,
    memory_per_device,
    model_parallel,
    multi_worker,
    place_layers,
    split_cpu,
)

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "distribution"))
BATCH, STEPS, LIMIT = 64, 30, 60


def by_hand(devices: int) -> contextlib.AbstractContextManager:
    """The scope of the engine as it is documented."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        names = [f"CPU:{i}" for i in range(devices)]
        return tf.distribute.MirroredStrategy(names).scope()
    names = [f"cpu:{i}" for i in range(devices)]
    return keras.distribution.DataParallel(devices=names).scope()


def conv_net() -> keras.Model:
    """A small convolutional net on 32 pixels, compiled."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (32, 64, 64):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    return model


def images() -> tuple[np.ndarray, np.ndarray]:
    """An epoch of random images and their classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 32, 32, 3)).astype("float32")
    return x, rng.integers(0, 10, size=len(x))


def speed(rounds: int) -> None:
    """Prints images per second."""
    split_cpu(2)
    x, y = images()
    scopes = {
        "one device": contextlib.nullcontext,
        "2 devices, by hand": lambda: by_hand(2),
        "2 devices, data_parallel": lambda: data_parallel(2).scope(),
    }
    models, seconds = {}, {name: [] for name in scopes}
    for name, scope in scopes.items():
        with scope():
            models[name] = conv_net()
    for turn in range(rounds + 1):
        for name, model in models.items():
            # JAX splits batches where `fit` is called in the scope.
            hand = by_hand(2) if "hand" in name and keras.backend.backend() == "jax" else None
            with hand or contextlib.nullcontext():
                start = time.perf_counter()
                model.fit(x, y, batch_size=BATCH, verbose=0)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    rates = {name: len(x) / statistics.median(each) for name, each in seconds.items()}
    print("| variant | images per second | of the engine by hand |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / rates['2 devices, by hand']:.3f} |")


def by_hand_in_processes(distribution) -> Callable[[np.ndarray, np.ndarray], None]:
    """Returns an epoch by the engine alone.

    Args:
        distribution: Ours, whose connection it shares, as a process can start one only.
    """
    by_backend = {"tensorflow": strategy_by_hand, "jax": sharding_by_hand, "torch": ddp_by_hand}
    return by_backend[keras.backend.backend()](distribution)


def loop_metrics() -> list[keras.Metric]:
    """The metrics of a loop by hand: those that `conv_net` compiles."""
    return [keras.metrics.Mean(), keras.metrics.SparseCategoricalAccuracy()]


def strategy_by_hand(distribution) -> Callable[[np.ndarray, np.ndarray], None]:
    """Returns an epoch by `MultiWorkerMirroredStrategy`."""
    import tensorflow as tf

    strategy = distribution.strategy
    with strategy.scope():
        model = conv_net()
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metrics = loop_metrics()
        model.optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = loss_of(y, outputs) / strategy.num_replicas_in_sync
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        metrics[0].update_state(loss)
        metrics[1].update_state(y, outputs)

    run = tf.function(lambda x, y: strategy.run(step, (x, y)))

    def epoch(x, y):
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(BATCH)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        for batch in strategy.experimental_distribute_dataset(dataset.with_options(options)):
            run(*batch)
        for metric in metrics:
            metric.result().numpy()
            metric.reset_state()

    return epoch


def sharding_by_hand(distribution) -> Callable[[np.ndarray, np.ndarray], None]:
    """Returns an epoch by `keras.distribution`, to which each process passes its slice."""
    scope = keras.distribution.DataParallel(auto_shard_dataset=False).scope
    count, index = distribution.num_processes, distribution.process_index
    with scope():
        model = conv_net()

    def epoch(x, y):
        with scope():
            model.fit(x[index::count], y[index::count], batch_size=BATCH // count, verbose=0)

    return epoch


def ddp_by_hand(distribution) -> Callable[[np.ndarray, np.ndarray], None]:
    """Returns an epoch by `DistributedDataParallel`, each process with the same number of steps."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

    model = conv_net()
    replica = torch.nn.parallel.DistributedDataParallel(model)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = loop_metrics()
    turns = itertools.count()

    def epoch(x, y):
        dataset = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        # By default, it asks `torch.distributed` for the number of processes.
        sampler = DistributedSampler(dataset)
        sampler.set_epoch(next(turns))
        batches = BatchSampler(sampler, BATCH // distribution.num_processes, drop_last=False)
        for x_part, y_part in DataLoader(dataset, sampler=batches, batch_size=None):
            outputs = replica(x_part, training=True)
            loss = loss_of(y_part, outputs)
            replica.zero_grad()
            loss.backward()
            variables = model.trainable_variables
            with torch.no_grad():
                model.optimizer.apply([v.value.grad for v in variables], variables)
                metrics[0].update_state(loss)
                metrics[1].update_state(y_part, outputs)
        for metric in metrics:
            # Of equally many samples in each process.
            result = torch.as_tensor(metric.result())
            torch.distributed.all_reduce(result)
            float(result / distribution.num_processes)
            metric.reset_state()

    return epoch


def worker(rounds: int, path: str) -> None:
    """Measures the variants in one of the processes; the chief writes the medians down."""
    distribution = multi_worker()
    x, y = images()
    with distribution.scope():
        model = conv_net()
    variants = {"multi_worker": lambda x, y: model.fit(x, y, batch_size=BATCH, verbose=0)}
    if distribution.num_processes > 1:
        variants["by hand"] = by_hand_in_processes(distribution)
    seconds = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, epoch in variants.items():
            start = time.perf_counter()
            epoch(x, y)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    if distribution.is_chief:
        rates = {name: len(x) / statistics.median(each) for name, each in seconds.items()}
        pathlib.Path(path).write_text(json.dumps(rates))


def processes(rounds: int) -> None:
    """Prints images per second in one process and in two."""
    print("| processes | variant | images per second | of the engine by hand |\n|---|---|---|---|")
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/rates.json"
            with contextlib.redirect_stdout(sys.stderr):
                code = launch([__file__, "worker", str(rounds), path], count)
            if code:
                raise SystemExit(code)
            rates = json.loads(pathlib.Path(path).read_text())
        for name, rate in rates.items():
            share = f"{rate / rates['by hand']:.3f}" if "by hand" in rates else "-"
            print(f"| {count} | {name} | {rate:,.0f} | {share} |", flush=True)


def exact() -> None:
    """Prints the table of cases."""
    from distribution_cases import CASES, difference, train

    split_cpu(4)
    print("| case | data_parallel | the engine alone |\n|---|---|---|")
    for name in CASES:
        one = train(name, contextlib.nullcontext)
        distribution = data_parallel(4, synchronize_batch_norm=True)
        ours = difference(one, train(name, distribution.scope))
        command = [sys.executable, __file__, "alone", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
            theirs = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "crashes"
        except subprocess.TimeoutExpired:
            theirs = f"no end within {LIMIT} s"
        print(f"| {name} | {ours:.1e} | {theirs} |", flush=True)


def alone(name: str) -> None:
    """Prints the difference of one case under the engine alone, or how it fails."""
    from distribution_cases import difference, train

    split_cpu(4)
    one = train(name, contextlib.nullcontext)
    try:
        keras_own = by_hand(4)
        with keras_own if keras.backend.backend() == "jax" else contextlib.nullcontext():
            inner = contextlib.nullcontext() if keras.backend.backend() == "jax" else keras_own
            print(f"{difference(one, train(name, lambda: inner)):.1e}")
    except Exception as error:
        print(f"fails: {type(error).__name__}")


def text_net() -> keras.Model:
    """An embedding, attention, a convolution and dense layers, compiled."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,), dtype="int32")
    x = layers.Embedding(8192, 128, name="embedding")(inputs)
    x = layers.MultiHeadAttention(4, 32, name="attention")(x, x)
    x = layers.Conv1D(256, 3, activation="relu", name="conv")(x)
    x = layers.Dense(1024, activation="relu", name="hidden")(layers.GlobalMaxPooling1D()(x))
    model = keras.Model(inputs, layers.Dense(400, name="logits")(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def held_bytes() -> None:
    """Prints the bytes that each device holds."""
    split_cpu(4)
    devices = [f"cpu:{i}" for i in range(4)]
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 8192, size=(32, 16)), rng.integers(0, 400, size=32)
    models = {"one device": text_net()}
    if keras.backend.backend() == "tensorflow":
        for balance in ("parameters", "flops", "memory"):
            models[f"place_layers, {balance}"] = model = text_net()
            place_layers(model, devices, balance)
    else:
        for parts in (2, 4):
            with model_parallel(4, parts).scope():
                models[f"model_parallel, {parts} parts"] = text_net()
    print(f"| variant | {' | '.join(devices)} | largest, of one device |\n|---{'|---' * 5}|")
    whole = None
    for name, model in models.items():
        model.fit(x, y, verbose=0)
        found = memory_per_device(model)
        held = [found.get(device, {"weights": 0, "optimizer": 0}) for device in devices]
        cells = [f"{each['weights']:,} + {each['optimizer']:,}" for each in held]
        largest = max(sum(each.values()) for each in held)
        whole = whole or largest
        print(f"| {name} | {' | '.join(cells)} | {largest / whole:.3f} |")
    print("\nBytes of weights + bytes of the optimizer's state.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["exact"]:
        exact()
    elif sys.argv[1:2] == ["bytes"]:
        held_bytes()
    elif sys.argv[1:2] == ["alone"]:
        alone(sys.argv[2])
    elif sys.argv[1:2] == ["processes"]:
        processes(int(sys.argv[2]) if sys.argv[2:] else 10)
    elif sys.argv[1:2] == ["worker"]:
        worker(int(sys.argv[2]), sys.argv[3])
    else:
        speed(int(sys.argv[1]) if sys.argv[1:] else 10)
