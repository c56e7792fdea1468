"""Replicas of TensorFlow that add up to one device.

Keras divides the loss of each replica by their number. That is right where all of them have
equally many samples, and the loss is a plain mean. Here each replica's part of a mean is what its
samples are of the batch, whatever their number, weights and masks.
"""

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_optkit.distribution.reduced_updates import reduced_updates
from keras_optkit.distribution.replaced import replaced
from keras_optkit.normalization import SyncBatchNormalization, sync_batch_normalization

# Keeps the streams of replicas apart: 2**32 times the square root of 2 minus 1, made odd.
_FAR = 1779033703
_THREAD = threading.local()


@contextlib.contextmanager
def exact_replicas(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    synchronize_batch_norm: bool,
    step_by_step: bool = False,
) -> Iterator[None]:
    """Lets the replicas of a model add up to one device, for the calls of its methods inside.

    Args:
        model: The model, made and compiled in the scope of the strategy.
        strategy: The strategy that it trains under.
        synchronize_batch_norm: Boolean, whether BatchNorm uses the statistics of all replicas.
        step_by_step: Boolean, whether the steps of one execution (`steps_per_execution`) are called
            one by one.
    """
    if "_maybe_symbolic_build" in vars(model):
        # `fit` calls `evaluate`.
        yield
        return
    norms = _norms(model)
    with contextlib.ExitStack() as stack:
        # The steps take their parts of whole batches.
        steps = model.steps_per_execution if step_by_step else 1
        whole = functools.partial(_whole, steps)
        stack.enter_context(replaced(strategy, experimental_distribute_dataset=whole))
        stack.enter_context(_exact_losses())
        stack.enter_context(_own_randomness())
        stack.enter_context(reduced_updates(model))
        total = functools.partial(_total_of_samples, sync_batch_normalization._sum_over_replicas)
        stack.enter_context(replaced(sync_batch_normalization, _sum_over_replicas=total))
        if synchronize_batch_norm:
            for norm in norms:
                moments = functools.partial(SyncBatchNormalization._moments, norm)
                stack.enter_context(replaced(norm, _moments=moments))
            norms = []
        if model._compile_loss is not None:
            losses = functools.partial(_losses, model._compile_loss.call)
            stack.enter_context(replaced(model._compile_loss, call=losses))
        stack.enter_context(
            replaced(
                model,
                train_step=_Step(model, "train_step", norms),
                test_step=_Step(model, "test_step", []),
                predict_step=_Step(model, "predict_step", []),
                call=functools.partial(_call, model, model.call),
                _maybe_symbolic_build=functools.partial(_build, model, strategy),
            )
        )
        yield


def _whole(steps: int, dataset: tf.data.Dataset, options: Any = None) -> Any:
    return dataset if steps == 1 else _OneByOne(dataset, steps)


class _OneByOne:
    """A dataset whose iterators are Python's, of which Keras takes batch after batch in Python.

    Args:
        dataset: The `tf.data.Dataset`.
        steps: Integer > 1, how many batches Keras takes in one execution.
    """

    def __init__(self, dataset: tf.data.Dataset, steps: int):
        self.element_spec = dataset.element_spec
        self._dataset = dataset
        self._steps = steps

    def __iter__(self) -> Iterator[Any]:
        return _Batches(iter(self._dataset), self._steps)


class _Batches:
    """The batches of one epoch, whose end is told to the execution that finds none."""

    def __init__(self, batches: Iterator[Any], steps: int):
        self._batches = batches
        self._steps = steps
        self._taken = 0
        self._ended = False

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> Any:
        if not self._ended:
            try:
                batch = next(self._batches)
                self._taken += 1
                return batch
            except StopIteration:
                self._ended = True
                if self._taken % self._steps:
                    # The last execution has fewer batches.
                    raise
        raise tf.errors.OutOfRangeError(None, None, "the end of the data")


class _Replica:
    """What a replica's step knows of its place in the batch."""

    def __init__(self, context: tf.distribute.ReplicaContext, samples: Any):
        self.context = context
        self.empty = tf.equal(samples, 0)
        samples = tf.cast(samples, "float32")
        self.share = samples / self.total(samples)
        self.reduced_a_loss = False
        self.calls = False
        self.in_losses = False

    def total(self, value: Any) -> Any:
        """Sums a tensor, or a list of them, over all replicas."""
        return self.context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    def fill(self, x: Any) -> Any:
        """Returns a batch, or one sample of zeros where it has none."""
        if not isinstance(x, tf.Tensor) or x.shape.rank in (None, 0):
            return x
        missing = tf.cast(self.empty, "int32")
        filled = tf.pad(x, [[0, missing], *[[0, 0]] * (x.shape.rank - 1)])
        return self._like(filled, x, self.fill)

    def empty_again(self, y: Any) -> Any:
        """Returns the outputs for what `fill` returned, those for no samples where it had none."""
        if not isinstance(y, tf.Tensor) or y.shape.rank in (None, 0):
            return y
        part = y[: tf.shape(y)[0] - tf.cast(self.empty, "int32")]
        return self._like(part, y, self.empty_again)

    def _like(self, new: Any, old: Any, do: Callable) -> Any:
        new.set_shape([None, *old.shape[1:]])
        mask = getattr(old, "_keras_mask", None)
        if mask is not None:
            new._keras_mask = do(mask)
        return new


def _current() -> _Replica | None:
    return getattr(_THREAD, "replica", None)


class _Step:
    """A step of the model that knows, while it runs, which replica it is."""

    def __init__(self, model: keras.Model, name: str, norms: list[keras.layers.Layer]):
        self._own = getattr(model, name)
        own_step = getattr(type(model), name) is not getattr(keras.Model, name)
        self._may_sum_losses = own_step and name == "train_step"
        self._model = type(model).__name__
        self._norms = norms
        self.__name__ = name

    def __call__(self, data: Any) -> Any:
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return self._own(data)
        data, samples = _part(data, context)
        _THREAD.replica = replica = _Replica(context, samples)
        try:
            outputs = self._own(data)
        finally:
            _THREAD.replica = None
        if self._may_sum_losses and not replica.reduced_a_loss:
            warnings.warn(
                f"`{self._model}.{self.__name__}` computes a loss of its own, and the gradients of "
                f"the {context.num_replicas_in_sync} devices are added. Compute it with "
                "`self.compute_loss(x, y, y_pred, sample_weight)`, or divide it by "
                "`distribution.num_devices`.",
                stacklevel=2,
            )
        _share_statistics(self._norms, replica)
        return outputs


def _part(data: Any, context: tf.distribute.ReplicaContext) -> tuple[Any, Any]:
    """Returns a replica's part of a batch, and its number of samples.

    The iterators of `tf.distribute` split a batch before the step, a small one unevenly. With four
    logical CPUs on two busy cores `fit` hung with them now and then, and without them did not.
    """
    count, place = context.num_replicas_in_sync, tf.cast(context.replica_id_in_sync_group, "int32")
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    first = next(part for part in keras.tree.flatten(x) if part is not None)
    with tf.device("/device:CPU:0"):
        size = tf.shape(first)[0]
        start, end = size * place // count, size * (place + 1) // count

        def split(tensor):
            if isinstance(tensor, tf.SparseTensor):
                rest = tensor.dense_shape[1:]
                begin = tf.concat([[tf.cast(start, "int64")], tf.zeros_like(rest)], 0)
                length = tf.concat([[tf.cast(end - start, "int64")], rest], 0)
                return tf.sparse.slice(tensor, begin, length)
            return tensor if tensor is None else tensor[start:end]

        return keras.tree.map_structure(split, data), end - start


def _norms(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers whose statistics are those of a replica's samples only."""
    plain = keras.layers.BatchNormalization
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, plain)
        and type(layer)._moments is plain._moments
        and not layer.synchronized
    ]


def _total_of_samples(own: Callable, sums: list) -> list:
    """Sums over replicas what those with samples have."""
    replica = _current()
    if replica is None:
        return own(sums)
    return own([tf.where(replica.empty, tf.zeros_like(part), part) for part in sums])


def _call(model: keras.Model, own: Callable, *args, **kwargs) -> Any:
    """Calls a model on a replica, which may have no samples.

    Not every layer can do with none: on a CPU a convolution of no images has a wrong shape. Such a
    replica computes one sample of zeros, and gives away nothing of it.
    """
    replica = _current()
    if replica is None or replica.calls:
        return own(*args, **kwargs)
    replica.calls = True
    try:
        args, kwargs = keras.tree.map_structure(replica.fill, (args, kwargs), none_is_leaf=False)
        outputs = own(*args, **kwargs)
    finally:
        replica.calls = False
    return keras.tree.map_structure(replica.empty_again, outputs)


def _share_statistics(norms: list[keras.layers.Layer], replica: _Replica) -> None:
    """Gives each replica the mean of their moving statistics, which would drift apart."""
    moving = [v for n in norms if n.trainable for v in (n.moving_mean, n.moving_variance)]
    if not moving:
        return
    parts = [v.value * replica.share for v in moving]
    for variable, mean in zip(moving, replica.total(parts), strict=True):
        variable.assign(mean)


@contextlib.contextmanager
def _exact_losses() -> Iterator[None]:
    """Lets what Keras does to losses under a strategy count samples, not replicas."""
    losses = sys.modules[keras.losses.Loss.__module__]
    functions = {
        "scale_loss_for_distribution": _scaled,
        "unscale_loss_for_distribution": _unscaled,
        "reduce_values": _reduced,
        "apply_mask": _masked,
    }

    def choose(own: Callable, ours: Callable) -> Callable:
        @functools.wraps(own)
        def call(*args, **kwargs):
            replica = _current()
            if replica is None:
                return own(*args, **kwargs)
            return ours(replica, own, *args, **kwargs)

        return call

    chosen = {
        name: choose(getattr(losses, name, None), ours)
        for name, ours in functions.items()
        if hasattr(losses, name)
    }
    missing = {name: None for name in functions if name not in chosen}
    with replaced(losses, **chosen, **missing):
        yield


def _losses(own: Callable, *args, **kwargs) -> Any:
    """Calls the losses of a compiled model."""
    replica = _current()
    if replica is None:
        return own(*args, **kwargs)
    replica.in_losses = True
    try:
        return own(*args, **kwargs)
    finally:
        replica.in_losses = False


def _scaled(replica: _Replica, own: Callable, value: Any) -> Any:
    replica.reduced_a_loss = True
    return value * tf.cast(replica.share, value.dtype)


def _unscaled(replica: _Replica, own: Callable, value: Any) -> Any:
    if replica.in_losses and not tf.executing_eagerly():
        # For a mean in which every replica weighs the same: Keras weighs the loss of one of several
        # outputs by a number of samples that a graph does not know.
        return value * tf.cast(replica.context.num_replicas_in_sync, value.dtype)
    # For a mean in which this replica weighs as many samples as it has.
    return tf.math.divide_no_nan(value, tf.cast(replica.share, value.dtype))


def _reduced(replica, own, values, sample_weight=None, reduction="sum_over_batch_size"):
    replica.reduced_a_loss = True
    weighted = reduction == "mean_with_sample_weight" and sample_weight is not None
    if not weighted or values.shape.rank == 0:
        return own(values, sample_weight, reduction)
    weight = replica.total(tf.cast(tf.reduce_sum(sample_weight), values.dtype))
    return tf.math.divide_no_nan(tf.reduce_sum(values), weight)


def _masked(replica, own, sample_weight, mask, dtype, reduction):
    if mask is None or reduction not in ("mean", "sum_over_batch_size"):
        return own(sample_weight, mask, dtype, reduction)
    valid = tf.cast(mask, dtype)
    sizes = replica.total([tf.cast(tf.size(mask), dtype), tf.reduce_sum(valid)])
    # The mean over what is valid in the whole batch: the mean over all that follows divides by all.
    weight = tf.math.divide_no_nan(*sizes)
    return own(sample_weight, mask, dtype, "sum") * weight


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Lets each replica draw numbers of its own from one seed."""
    generator = keras.random.SeedGenerator
    own = generator.next

    @functools.wraps(own)
    def next_(self, ordered=True):
        seed = own(self, ordered)
        replica = _current()
        if replica is None:
            return seed
        place = tf.cast(replica.context.replica_id_in_sync_group, seed.dtype)
        return seed + tf.stack([place * _FAR, tf.zeros_like(place)])

    with replaced(generator, next=next_):
        yield


def _build(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    iterator: Any = None,
    data_batch: Any = None,
) -> None:
    """Builds a model from what its batches look like, and takes none of them away.

    Keras takes the first batch, which a generator gives only once, and adds up the replicas'
    parts, which fails where they differ in size.
    """
    if iterator is not None:
        data_batch = iterator._distributed_dataset.element_spec
    with strategy.scope():
        model._symbolic_build(data_batch=data_batch)
