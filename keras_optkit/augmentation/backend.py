"""Where this room leans on the inside of Keras: `tf.data` under another backend, nested calls."""

import contextlib
import contextvars
import functools
import importlib
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state

_TWINS: "weakref.WeakKeyDictionary[keras.random.SeedGenerator, keras.random.SeedGenerator]" = (
    weakref.WeakKeyDictionary()
)
# An odd number that keeps the seeds of replicas, and of calls, apart: 2**32 over the golden ratio,
# modulo 2**31.
_FAR = 0x1E3779B1
_COMPILED_FOR_CPU = contextvars.ContextVar("compiled_for_cpu", default=False)
_ON_THE_HOST = contextvars.ContextVar("on_the_host", default=False)
_DONE: "weakref.WeakKeyDictionary[keras.layers.Layer, Any]" = weakref.WeakKeyDictionary()


def is_tensorflow(tensor: Any) -> bool:
    """Whether something is a tensor of TensorFlow, which is not imported for the question."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and tf.is_tensor(tensor)


def ops_for(tensor: Any) -> Any:
    """Returns the namespace of operations that understand a tensor.

    Inside `tf.data` the tensors are TensorFlow's, whatever the backend of Keras. For those this
    is what `keras.ops` calls when TensorFlow is the backend.

    Args:
        tensor: A tensor of the backend, a tensor of TensorFlow, or anything array-like.

    Returns:
        `keras.ops`, or a namespace with the same functions on TensorFlow.
    """
    if _ON_THE_HOST.get() and isinstance(tensor, (np.ndarray, np.generic)):
        return _NUMPY_OPS
    return _tensorflow_ops() if _is_foreign(tensor) else keras.ops


@contextlib.contextmanager
def on_the_host():
    """Lets `ops_for` return functions on NumPy arrays for NumPy arrays, in this thread."""
    token = _ON_THE_HOST.set(True)
    try:
        yield
    finally:
        _ON_THE_HOST.reset(token)


# NumPy under the names of `keras.ops`. It has the others under the same names.
_NUMPY_OPS = types.SimpleNamespace(
    **{**vars(np), "cast": np.asarray, "convert_to_tensor": np.asarray}
)


def uniform(shape: tuple, seed_generator: keras.random.SeedGenerator, like: Any) -> Any:
    """Draws from [0, 1) in float32, as a tensor of the kind that another tensor is.

    Args:
        shape: Tuple, of which the entries may be scalar tensors in a TensorFlow graph.
        seed_generator: Where the seed is drawn from. Tensors of TensorFlow under another backend
            have a generator of their own, which starts from the same seed.
        like: The other tensor.

    Returns:
        A float32 tensor.
    """
    if _is_foreign(like):
        if seed_generator not in _TWINS:
            tf = sys.modules["tensorflow"]
            seed = int(keras.ops.convert_to_numpy(seed_generator.state)[0])
            seed = (seed + _replica() * _FAR) % 2**31
            with tf.init_scope():
                twin = keras.random.SeedGenerator(seed, backend=_tensorflow_backend())
            _TWINS[seed_generator] = twin
        random = _tensorflow_backend().random
        return random.uniform(shape, dtype="float32", seed=_TWINS[seed_generator])
    seed = seed_generator
    if keras.backend.backend() == "torch":
        # Keras adds the count of calls to the seed there, so one seed's stream is another one's.
        first, calls = map(int, keras.ops.convert_to_numpy(seed_generator.next()))
        seed = ((first + _replica() * _FAR) * _FAR + calls) % 2**31
    elif keras.backend.backend() == "tensorflow" and _replicas() > 1:
        tf = sys.modules["tensorflow"]
        state = tf.cast(tf.math.floormod(seed_generator.next(), 2**31 - 1), "int32")
        place = tf.cast(_replica(), "int32")
        return tf.random.stateless_uniform(shape, state + tf.stack([place * _FAR, 0]))
    draws = keras.random.uniform(shape, dtype="float32", seed=seed)
    host = _ON_THE_HOST.get() and isinstance(like, np.ndarray)
    return keras.ops.convert_to_numpy(draws) if host else draws


def _replicas() -> int:
    """Returns how many replicas run the same step, 1 outside of any."""
    context = sys.modules["tensorflow"].distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def _replica() -> Any:
    """Returns the number of the replica that runs, which each has draws of its own."""
    if keras.backend.backend() == "tensorflow":
        return sys.modules["tensorflow"].distribute.get_replica_context().replica_id_in_sync_group
    if keras.backend.backend() == "torch":
        distributed = sys.modules["torch"].distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank()
    if keras.backend.backend() == "jax":
        # Of the processes, which have a `tf.data` pipeline each; the devices of one share a batch.
        return sys.modules["jax"].process_index()
    return 0


def is_concrete(tensor: Any) -> bool:
    """Whether a tensor has values now, and is no placeholder in a graph or a compiled step."""
    if is_tensorflow(tensor):
        return not sys.modules["tensorflow"].is_symbolic_tensor(tensor)
    if keras.backend.backend() == "jax":
        return not isinstance(tensor, sys.modules["jax"].core.Tracer)
    return getattr(getattr(tensor, "device", None), "type", None) != "meta"


def first_time(layer: keras.layers.Layer, action: Callable[[], None]) -> None:
    """Puts an action into a graph of TensorFlow, where it happens the first time it is run.

    Args:
        layer: The layer whose action this is. It has one.
        action: Function without arguments or result.
    """
    tf = sys.modules["tensorflow"]
    if layer not in _DONE:
        with tf.init_scope():
            _DONE[layer] = tf.Variable(False, trainable=False)
    done = _DONE[layer]

    def act():
        action()
        done.assign(True)
        return tf.constant(True)

    tf.cond(done, lambda: tf.constant(True), act)


def is_outermost(layer: keras.layers.Layer) -> bool:
    """Whether a layer that runs was called by the user, and not by a model or another layer."""
    context = global_state.get_global_attribute("current_call_ctx")
    return context is None or context.entry_layer is layer


def is_eager_on_cpu(tensor: Any) -> bool:
    """Whether a tensor has values now, in the memory of the CPU, and no gradient is asked of it."""
    if isinstance(tensor, np.ndarray) or not is_concrete(tensor):
        return False
    if is_tensorflow(tensor):
        return tensor.device.endswith("CPU:0")
    if keras.backend.backend() == "jax":
        return {device.platform for device in tensor.devices()} == {"cpu"}
    return tensor.device.type == "cpu" and not tensor.requires_grad


def is_compiled_for_cpu(tensor: Any) -> bool:
    """Whether a tensor is in a step that will be compiled, as far as can be told, for a CPU."""
    if is_tensorflow(tensor):
        return _COMPILED_FOR_CPU.get()
    if keras.backend.backend() != "jax" or is_concrete(tensor):
        return False
    return sys.modules["jax"].default_backend() == "cpu"


@contextlib.contextmanager
def compiled_for_cpu():
    """Tells `is_compiled_for_cpu` that what is traced here is, on TensorFlow."""
    token = _COMPILED_FOR_CPU.set(True)
    try:
        yield
    finally:
        _COMPILED_FOR_CPU.reset(token)


def xla_pays(layer: keras.layers.Layer, tensor: Any) -> bool:
    """Whether a layer that runs should have its part of the graph compiled by XLA.

    It should in `tf.data`, which runs on the CPU and is compiled by nothing else, and in a model
    on a machine with CPUs only, where TensorFlow's Keras leaves XLA off by default. With an
    accelerator the model's own choice holds.
    """
    if not is_tensorflow(tensor):
        return False
    tf = sys.modules["tensorflow"]
    if not tf.is_symbolic_tensor(tensor):
        return False
    devices = {device.device_type for device in tf.config.list_physical_devices()}
    return is_outermost(layer) or devices == {"CPU"}


def _is_foreign(tensor: Any) -> bool:
    return keras.backend.backend() != "tensorflow" and is_tensorflow(tensor)


def _tensorflow_backend() -> types.ModuleType:
    return importlib.import_module("keras.src.backend.tensorflow")


@functools.cache
def _tensorflow_ops() -> types.SimpleNamespace:
    backend = _tensorflow_backend()
    return types.SimpleNamespace(
        **{**vars(backend.numpy), **vars(backend.core), **vars(backend.math)}
    )
