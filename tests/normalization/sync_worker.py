"""One training on several logical devices and one on a single device, compared.

Run by test_sync_batch_normalization.py, as devices must be made before anything else:
KERAS_BACKEND=... python sync_worker.py REPLICAS FOLDER
It prints a line of JSON: the largest differences.
"""

import json
import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[1]}"

import keras
import numpy as np

from keras_optkit.normalization import SyncBatchNormalization

REPLICAS = int(sys.argv[1])
RNG = np.random.default_rng(0)
# Each replica sees another part of the drift, so its own statistics are far off.
DRIFT = np.linspace(-3, 3, 48)[:, None, None, None]
X = (RNG.normal(1000.0, 1.0, size=(48, 4, 4, 3)) + DRIFT).astype("float32")
Y = RNG.normal(size=(48, 1)).astype("float32")


def trained():
    """Weights, statistics among them, after two steps on all of the data."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            SyncBatchNormalization(momentum=0.5),
            keras.layers.Conv2D(4, 3, activation="tanh"),
            SyncBatchNormalization(momentum=0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X, Y, batch_size=48, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


def largest(ours, theirs):
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def expected_outputs(x):
    x = x.astype("float64")
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)


def on_tensorflow():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(cpu, logical)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])
    single = trained()
    with strategy.scope():
        several = trained()
        layer = SyncBatchNormalization()
        layer.build(X.shape)
    # Shares of different sizes.
    shares = np.split(X, [5 + 11 * i for i in range(REPLICAS - 1)])
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(shares[context.replica_id_in_sync_group])
    )
    call = tf.function(lambda x: layer(x, training=True))
    outputs = np.concatenate(strategy.experimental_local_results(strategy.run(call, (values,))))
    return {
        "weights": largest(several, single),
        "outputs": largest([outputs], [expected_outputs(X)]),
        "moving": largest([layer.moving_mean.numpy()], [0.01 * X.mean((0, 1, 2))]),
    }


def on_jax():
    import jax

    single = trained()
    devices = jax.devices()
    assert len(devices) == REPLICAS
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    several = trained()
    sharded = keras.distribution.distribute_tensor(
        jax.numpy.asarray(X), keras.distribution.distribution().get_data_layout(X.shape)
    )
    outputs = SyncBatchNormalization()(sharded, training=True)
    return {
        "weights": largest(several, single),
        "outputs": largest([np.asarray(outputs)], [expected_outputs(X)]),
        "devices": len(sharded.sharding.device_set),
    }


def one_process_of_torch(rank, folder):
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=REPLICAS
    )
    shares = np.split(X, [5 + 11 * i for i in range(REPLICAS - 1)])
    x = torch.tensor(shares[rank], requires_grad=True)
    layer = SyncBatchNormalization(momentum=0.5)
    outputs = layer(x, training=True)
    (outputs**3).sum().backward()
    np.savez(
        f"{folder}/{rank}.npz",
        outputs=outputs.detach(),
        gradient=x.grad,
        mean=keras.ops.convert_to_numpy(layer.moving_mean),
        variance=keras.ops.convert_to_numpy(layer.moving_variance),
    )
    torch.distributed.destroy_process_group()


def on_torch():
    import torch

    folder = sys.argv[2]
    torch.multiprocessing.spawn(one_process_of_torch, args=(folder,), nprocs=REPLICAS)
    found = [dict(np.load(pathlib.Path(folder) / f"{rank}.npz")) for rank in range(REPLICAS)]
    # The whole batch in float64, without Keras.
    x = torch.tensor(X.astype("float64"), requires_grad=True)
    outputs = (x - x.mean((0, 1, 2))) / torch.sqrt(x.var((0, 1, 2), correction=0) + 1e-3)
    (outputs**3).sum().backward()
    variance = X.astype("float64").var((0, 1, 2))
    return {
        "outputs": largest(
            [np.concatenate([f["outputs"] for f in found])], [outputs.detach().numpy()]
        ),
        "gradient": largest([np.concatenate([f["gradient"] for f in found])], [x.grad.numpy()]),
        "moving": largest([f["mean"] for f in found], [X.mean((0, 1, 2)) / 2] * REPLICAS),
        "variance": largest([f["variance"] for f in found], [(1 + variance) / 2] * REPLICAS),
    }


if __name__ == "__main__":
    run = {"tensorflow": on_tensorflow, "jax": on_jax, "torch": on_torch}[keras.backend.backend()]
    sys.stdout.write(json.dumps(run()))
