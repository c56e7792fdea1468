"""The learning-rate range test on a compiled model."""

import contextlib
import math
import numbers
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_optkit.core.additions import drive_learning_rate
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.messages import did_you_mean
from keras_optkit.core.optimizer import iterations, require_compiled
from keras_optkit.schedules.range_rules import MIN_POINTS, MovingAverage, diverged, sweep
from keras_optkit.schedules.range_test import RangeTest
from keras_optkit.schedules.schedule import check_rate
from keras_optkit.schedules.untouched import random_states, untouched

_MODES = ("exponential", "linear")


def find_lr(
    model: keras.Model,
    data: Any,
    y: Any = None,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    mode: str = "exponential",
    batch_size: int | None = None,
    sample_weight: Any = None,
    class_weight: dict[int, float] | None = None,
    shuffle: bool = True,
    smoothing: float = 0.98,
    divergence: float | None = 4.0,
) -> RangeTest:
    """Trains a model for some steps while the learning rate rises, to see which rates serve.

    The model trains as in `fit`: its own `train_step`, loss scaling, gradient accumulation (a
    rate for each update, not each batch) and distribution are those of `fit`, and the rate is set
    inside the compiled step on every backend. The test ends early when the loss has diverged or is
    not finite.

    Afterwards all is as it was, byte for byte, and so it is after an error or an interrupt: the
    weights and statistics of the model, the optimizer's variables and learning rate, the loss
    scale, the metrics, `history`, the compiled functions, the seeds of the layers and of Keras, and
    the random states of Python, NumPy and torch. A model or an optimizer that was not built is
    built afterwards, in the state of a new one. What cannot be put back is state that only your
    own code knows, such as a random generator of its own.

    Args:
        model: A compiled `keras.Model`.
        data: What the model is trained on:

            - a NumPy array or tensor, or a list or dictionary of them, with the targets in `y`;
            - a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch `DataLoader` of batches. It
              is read from its start, and again when it ends. Hooks such as `on_epoch_end` of a
              `PyDataset` aren't called. A Dataset that holds variables or tables, or more
              than 2 GB of arrays, can't be copied, and if it shuffles, its next order is another;
            - a function without arguments that returns a new generator of batches. A generator
              itself can't be rewound, and is refused.
        y: The targets, for arrays only.
        start: Float, the first learning rate; > 0, or >= 0 if `mode` is `"linear"`.
        end: Float > `start`, the last one.
        steps: Integer >= 10, the number of updates, and so of rates.
        mode: `"exponential"` raises the rate by equal factors, `"linear"` by equal differences.
        batch_size: Integer > 0, for arrays only. Defaults to 32, as in `fit`.
        sample_weight: As in `fit`, for arrays only.
        class_weight: As in `fit`.
        shuffle: Boolean, whether to shuffle arrays, and the batches of a `PyDataset`.
        smoothing: Float in [0, 1), the weight of the past in the smoothed loss. Defaults to
            0.98, the value of fastai.
        divergence: Float > 1. The test ends when the smoothed loss exceeds this many times its
            lowest value. `None` lets it run to its end. Defaults to 4, the value of fastai.

    Returns:
        A `RangeTest` with `learning_rates`, `losses`, `smoothed`, `suggestions` (a rate for each
        of `"steepest"`, `"valley"`, `"minimum"` and `"slide"`), `stopped`, `plot(path)` and
        `to_dict()`.

    Raises:
        ValueError: Before the first step, if the model is not compiled with one Keras optimizer
            whose rate can be set, or an argument is not as above.

    Example:

    ```python
    test = keras_optkit.schedules.find_lr(model, x, y)
    test.plot("range_test.png")
    model.optimizer.learning_rate = test.suggestions["valley"]
    ```

    Reference:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3. The
        exponential sweep and the smoothing: Gugger, "How Do You Find A Good Learning Rate", 2018.
    """
    rates = _check_sweep(start, end, steps, mode)
    _check_curve(smoothing, divergence)
    optimizer = _check_optimizer(model)
    batched = _check_data(data, y, batch_size, sample_weight)
    arguments = {"class_weight": class_weight, "shuffle": False}
    if not batched:
        arguments.update(
            y=y, batch_size=batch_size, sample_weight=sample_weight, shuffle=bool(shuffle)
        )
    # Twice the batches that are needed, as loss scaling skips some updates.
    limit = 2 * steps * (optimizer.gradient_accumulation_steps or 1)
    curve = _Curve(rates, smoothing, divergence)
    callback = _Sweep(curve, limit)
    with _unread(data):
        _build(model, _view(data, 1, shuffle=False), batch_size)
        with untouched(model), _plain_fit(model):
            try:
                x = _view(data, limit, shuffle)
                model.fit(x, epochs=limit, verbose=0, callbacks=[callback], **arguments)
            finally:
                callback.close()
    if curve.made == 0 and curve.stopped is None:
        raise ValueError(
            "`find_lr` sweeps the rate of `model.optimizer`, with which `train_step` made no "
            f"update. Received: {type(model).__name__} with optimizer={optimizer!r}"
        )
    stopped = curve.stopped or f"data and updates ended after {curve.made} of {steps} steps"
    return RangeTest(*np.transpose(curve.points), stopped=stopped, mode=mode)


def _check_sweep(start: Any, end: Any, steps: Any, mode: Any) -> np.ndarray:
    if mode not in _MODES:
        hint = did_you_mean(str(mode), _MODES)
        raise ValueError(
            f'`mode` must be "exponential" or "linear". {hint} Received: mode={mode!r}'
        )
    start = check_rate("start", start, zero=mode == "linear")
    end = check_rate("end", end)
    if start >= end:
        raise ValueError(f"`start` must be below `end`. Received: start={start!r}, end={end!r}")
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < MIN_POINTS:
        raise ValueError(
            f"`steps` must be an integer of at least {MIN_POINTS}; a curve of fewer points says "
            f"nothing. Received: steps={steps!r}"
        )
    return sweep(start, end, int(steps), mode)


def _check_curve(smoothing: Any, divergence: Any) -> None:
    if not isinstance(smoothing, numbers.Real) or not 0 <= smoothing < 1:
        raise ValueError(f"`smoothing` must be in [0, 1). Received: smoothing={smoothing!r}")
    if divergence is not None and not (isinstance(divergence, numbers.Real) and divergence > 1):
        raise ValueError(
            "`divergence` must be above 1, or None to never end early. "
            f"Received: divergence={divergence!r}"
        )


def _check_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    optimizer = require_compiled(model, "find_lr")
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise ValueError(
            "`find_lr` sweeps one rate, and a MultiOptimizer has several. Compile the model with "
            "one of its optimizers at a time, and test each. "
            f"Received: optimizer={optimizer!r}"
        )
    if getattr(optimizer, "relative_step", False):
        raise ValueError(
            "This optimizer bounds its rate by the number of the step, so a sweep has no effect "
            "above the bound. Compile the model with `relative_step=False`. "
            f"Received: optimizer={optimizer!r}"
        )
    return optimizer


def _check_data(data: Any, y: Any, batch_size: Any, sample_weight: Any) -> bool:
    """Returns whether the data comes in batches, or raises where it can't be used."""
    if hasattr(data, "__next__"):
        raise ValueError(
            "A generator or iterator can't be rewound, so the batches of the test would be missing "
            "from the training that follows. Pass a function that returns a new one, as in "
            f"`find_lr(model, lambda: batches(...))`. Received: data={data!r}"
        )
    if isinstance(data, (list, tuple, dict)) or hasattr(data, "shape"):
        leaves = [leaf for leaf in keras.tree.flatten(data) if hasattr(leaf, "shape")]
        if not leaves or any(0 in tuple(leaf.shape)[:1] for leaf in leaves):
            raise ValueError("`data` must have at least one sample. Received: empty data")
        return False
    if data is None:
        raise ValueError("`data` must be arrays or batches of them. Received: data=None")
    for name, value in {"y": y, "batch_size": batch_size, "sample_weight": sample_weight}.items():
        if value is not None:
            raise ValueError(
                f"`{name}` goes with arrays only; batches bring their own. "
                f"Received: `{name}` beside data={data!r}"
            )
    return True


def _build(model: keras.Model, x: Any, batch_size: int | None) -> None:
    """Makes all variables before the test, so that it starts from, and goes back to, a new model.

    A forward pass on one batch builds the model. Only Python's random state, from which the weights
    are drawn, moves on, as it would in `fit`.
    """
    if not all(layer.built for layer in model._flatten_layers()):
        function, put_back = model.predict_function, random_states()
        try:
            model.predict(x, batch_size=batch_size, steps=1, verbose=0)
        finally:
            python = random.getstate()
            put_back()
            random.setstate(python)
            model.predict_function = function
    if not model.trainable_variables:
        raise ValueError(
            "The model has no trainable weights, so no rate changes its loss. "
            f"Received: model={model!r}"
        )
    if not model.optimizer.built:
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            model.optimizer.build(model.trainable_variables)


@contextlib.contextmanager
def _plain_fit(model: keras.Model) -> Iterator[None]:
    """Lets `fit` start at epoch 0, step by step, and run over its data as often as it needs."""
    # Left by `BackupAndRestore`, and taken for the `initial_epoch` of every later `fit`.
    model._initial_epoch = None
    model.steps_per_execution = 1
    with warnings.catch_warnings():
        # Said of every data set without a length when its first epoch ends.
        warnings.filterwarnings("ignore", message="Your input ran out of data")
        yield


def _view(data: Any, limit: int, shuffle: bool) -> Any:
    """Returns data for one long `fit` that leaves the user's object as it is."""
    if isinstance(data, keras.utils.PyDataset):
        return _Batches(data, limit, shuffle)
    if hasattr(data, "cardinality"):
        # Of a `tf.data.Dataset`. At an end that it did not foresee, TensorFlow counts an update
        # that was not made.
        return _copy_of(data).repeat()
    return _repeated(data) if callable(data) else data


@contextlib.contextmanager
def _unread(data: Any) -> Iterator[None]:
    """Puts back the random generators that a torch `DataLoader` draws its order from."""
    holders = (data, getattr(data, "sampler", None))
    generators = [getattr(holder, "generator", None) for holder in holders]
    states = [(g, g.get_state()) for g in generators if hasattr(g, "get_state")]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


class _Batches(keras.utils.PyDataset):
    """The batches of a `PyDataset`, again and again, without the hooks by which it may change.

    Args:
        dataset: The user's `PyDataset`.
        limit: Integer, the number of batches.
        shuffle: Boolean, whether each pass has an order of its own.
    """

    def __init__(self, dataset: keras.utils.PyDataset, limit: int, shuffle: bool):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self._dataset = dataset
        count = dataset.num_batches
        if count is None:
            self._order = np.arange(limit)
        else:
            # `random_states` puts back what this draws.
            draw = np.random.permutation if shuffle else np.arange
            passes = [draw(count) for _ in range(-(-limit // count) if count else 0)]
            self._order = np.concatenate([np.arange(0), *passes])[:limit]

    @property
    def num_batches(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._order[index])]


def _copy_of(dataset: Any) -> Any:
    """Returns a `tf.data.Dataset` that shuffles with a state of its own, or the one given.

    Each pass over a dataset that shuffles moves a state on that a plain copy would share.
    """
    import tensorflow as tf
    from google.protobuf.message import Error
    from tensorflow.core.framework import graph_pb2

    try:
        variant = tf.data.experimental.to_variant(dataset)
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)
        graph = graph_pb2.GraphDef.FromString(graph.numpy())
        nodes = {node.name: node for node in graph.node}
        shuffles = [node for node in graph.node if node.op.startswith("Shuffle")]
        for state in {name: nodes[name] for node in shuffles for name in node.input}.values():
            resource = tf.resource.as_datatype_enum
            if state.op == "Const" and state.attr["dtype"].type == resource:
                # With this in place of a state, a dataset makes its own from its seeds.
                state.CopyFrom(type(state)(name=state.name, op="DummySeedGenerator"))
        variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    except (tf.errors.OpError, ValueError, Error):
        # It holds what can't be copied, such as a table, or more data than a graph may hold.
        return dataset
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def _repeated(batches: Callable[[], Iterator]) -> Iterator:
    found = True
    while found:
        found = False
        for batch in batches():
            found = True
            yield batch


class _Curve:
    """The points of the test, in the order of the updates, and when to end it.

    Args:
        rates: Array of the rates, one for each update.
        smoothing: Float in [0, 1).
        divergence: Float > 1, or `None`.
    """

    def __init__(self, rates: np.ndarray, smoothing: float, divergence: float | None):
        self.rates = rates
        self.divergence = divergence
        self.points: list[tuple[float, float, float]] = []
        self.stopped: str | None = None
        self.made = 0
        self._average = MovingAverage(smoothing)
        self._batches: list[float] = []

    def add(self, loss: float, made: int) -> None:
        """Takes up the loss of a batch, behind which the test has made so many updates.

        Accumulation and loss scaling may need several batches for an update. All of them see the
        same weights, and an update weighs them alike.
        """
        self._batches.append(loss)
        if made == self.made and math.isfinite(loss):
            return
        loss = float(np.mean(self._batches))
        rate = self.rates[min(self.made, len(self.rates) - 1)]
        self.points.append((rate, loss, self._average.add(loss)))
        self.made, self._batches = made, []
        self.stopped = self._verdict()

    def _verdict(self) -> str | None:
        _, loss, smoothed = self.points[-1]
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        history = [point[2] for point in self.points]
        if self.divergence and diverged(smoothed, history[0], min(history), self.divergence):
            return "the loss has diverged"
        return "the sweep is complete" if self.made >= len(self.rates) else None


class _Sweep(OptkitCallback):
    """Drives the rate, and collects the losses.

    Args:
        curve: The `_Curve` to fill.
        limit: Integer, the number of batches after which the test ends at the latest.
    """

    # Each loss decides whether the next step is made.
    async_safe = False

    def __init__(self, curve: _Curve, limit: int):
        super().__init__()
        self._curve = curve
        self._limit = limit
        self._batches = 0

    def _install(self, epoch, state):
        self._optimizer = optimizer = require_compiled(self.model, "find_lr")
        self._first = first = iterations(optimizer)
        table, last = self._curve.rates.astype("float32"), len(self._curve.rates) - 1

        def rate(update):
            index = keras.ops.clip(keras.ops.cast(update, "int32") - first, 0, last)
            return keras.ops.take(keras.ops.convert_to_tensor(table), index)

        drive_learning_rate(optimizer, rate, self._fit_scope)

    def on_train_batch_begin(self, batch, logs=None):
        # `fit` logs the mean since the last reset. This makes it that of one batch.
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        if "loss" not in (logs or {}):
            raise ValueError(
                "`find_lr` reads the 'loss' that `train_step` returns, and there is none. "
                f"Received: {sorted(logs or {})} from `{type(self.model).__name__}.train_step`"
            )
        if keras.backend.backend() == "jax":
            # The next step takes its state from the variables again, the reset ones included.
            self.model.jax_state_sync()
        self._batches += 1
        self._curve.add(float(logs["loss"]), iterations(self._optimizer) - self._first)
        if self._curve.stopped is not None or self._batches >= self._limit:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self._batches == 0:
            raise ValueError("`data` must have at least one batch. Received: no batch")

    def close(self) -> None:
        """Takes the rate back where `fit` came to no end of its own."""
        if self._fit_scope is not None:
            self._fit_scope.close()
