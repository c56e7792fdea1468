"""What every test shares: the backend under test, seeds, and the small models and data."""

import gc
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
if os.environ["KERAS_BACKEND"] == "jax":
    # Most tests compile what another one, or a process that it starts, compiles as well. A folder
    # for each worker: two writers would meet in one file.
    root = pathlib.Path(__file__).parents[1] / ".pytest_cache"
    folder = root / f"jax-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
# Whole scripts, whole networks, and what starts processes of its own; `make test-slow` runs it.
SLOW = (
    "tests/compression/tfmot/test_modules.py",
    "tests/compression/tfmot/test_quantization.py::test_the_blocks_of_mobile_net_v2",
    "tests/compression/tfmot/test_to_tf_keras.py::test_applications",
    "tests/compression/structured/test_prune_channels.py::test_a_network_of_the_field",
    "tests/data/test_datasets.py::test_trap_what_an_import_and_the_first_use_do",
    "tests/data/test_digits.py::test_two_processes_prepare_it_at_once",
    "tests/distribution/test_data_parallel.py",
    "tests/distribution/test_launch.py",
    "tests/distribution/test_processes.py",
    "tests/normalization/test_sync_batch_normalization.py::test_equal_to_one_device",
    "tests/schedules/test_range_test.py::test_plot_leaves_matplotlib_alone",
    "tests/stopping/resume/test_resume.py::test_killed",
    "tests/test_foreign_scripts.py::test_a_search",
    "tests/test_package.py",
    "tests/test_readme.py",
    "tests/test_settings.py::test_a_killed_and_resumed_run_equals_a_whole_one",
    "tests/tuning/test_chief_and_workers.py",
    "tests/tuning/test_tuner.py::test_killed_at_any_moment_a_search_loses_nothing",
    "tests/tuning/test_workers.py",
    "tests/tutorials/",
)

if BACKEND == "tensorflow":
    # Two logical devices on one CPU, so that distribution can be tested anywhere.
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "backends(*names): the test runs on these Keras backends only"
    )
    config.addinivalue_line("markers", "slow: `make test` leaves it to `make test-slow`")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        marker = item.get_closest_marker("backends")
        if marker and BACKEND not in marker.args:
            reason = f"needs the {' or '.join(marker.args)} backend"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _free_graphs():
    """Lets go of the graphs of a module's tests.

    TensorFlow registers every custom gradient for as long as the process lives, and with it the
    graph that it stands in, so that a process of many tests grows and becomes slower.
    """
    yield
    if BACKEND == "tensorflow":
        from tensorflow.python.framework import ops

        registry = ops.gradient_registry._registry
        for name in [name for name in registry if name.startswith("CustomGradient-")]:
            del registry[name]
        gc.collect()


@pytest.fixture
def mirrored():
    """A MirroredStrategy on two logical CPU devices; for TensorFlow only."""
    devices = [device.name for device in tf.config.list_logical_devices("CPU")[:2]]
    assert len(devices) == 2
    # The default collectives are numbered by process, and stumble over a second strategy.
    reduce = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduce)


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits: float32 images of shape (1797, 8, 8, 1) in [0, 1], int labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[..., None] / 16).astype("float32"), data.target.astype("int32")


@pytest.fixture
def toy():
    """64 vectors of 4 numbers, and which of 3 classes each is in."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + (x[:, 1] > 0.5)


@pytest.fixture
def make_model():
    """A function that returns a small compiled classifier; its arguments go to `compile`."""

    def make(optimizer="adam", **kwargs):
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dense(3),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(**{"optimizer": optimizer, "loss": loss, "metrics": ["accuracy"], **kwargs})
        return model

    return make
