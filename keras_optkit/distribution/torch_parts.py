"""Steps of a model of torch that are shared by several processes.

Every process runs the whole step with the whole batch, except for the calls of the model: there it
computes its part of the samples, and gets the other outputs from the other processes. So loss and
metrics are those of one process, whatever they are made of, and only the gradients are to be
averaged, in which the part of a process weighs as much as there are processes.
"""

import contextlib
import functools
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import torch

from keras_optkit.distribution.replaced import replaced
from keras_optkit.distribution.torch_exchange import TorchExchange, sizes
from keras_optkit.normalization import SyncBatchNormalization, sync_batch_normalization

# Keeps the streams of processes apart: 2**32 times the square root of 2 minus 1, made odd.
_FAR = 1779033703


class SharedSteps:
    """The steps of one model, of which each process computes a part.

    Args:
        model: The model.
        exchange: What the processes exchange by.
        synchronize_batch_norm: Boolean, whether BatchNorm uses the statistics of all parts.
    """

    def __init__(self, model: keras.Model, exchange: TorchExchange, synchronize_batch_norm: bool):
        self.model = model
        self.exchange = exchange
        self._synchronize_batch_norm = synchronize_batch_norm
        self._random: Any = None
        self._steps = 0
        self._running = self._calling = self._averaging = False
        self._split = self._averaged = self._is_empty = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Shares the steps of the model that are made inside."""
        model = self.model
        with contextlib.ExitStack() as stack:
            for part in model._flatten_layers():
                if isinstance(part, keras.Model):
                    call = functools.partial(self._call, part, part.call)
                    stack.enter_context(replaced(part, call=call))
                elif self._synchronize_batch_norm and _is_plain_norm(part):
                    moments = functools.partial(SyncBatchNormalization._moments, part)
                    stack.enter_context(replaced(part, _moments=moments))
            for optimizer in optimizers_of(model):
                apply = functools.partial(self._apply, optimizer.apply)
                stack.enter_context(replaced(optimizer, apply=apply))
            names = ("train_step", "test_step", "predict_step")
            steps = {n: functools.partial(self._step, n, getattr(model, n)) for n in names}
            stack.enter_context(replaced(model, **steps))
            stack.enter_context(replaced(sync_batch_normalization, _sum_over_replicas=self._total))
            own = keras.random.SeedGenerator.next
            stack.enter_context(replaced(keras.random.SeedGenerator, next=self._next_seed(own)))
            yield

    def _step(self, name: str, own: Callable, data: Any) -> Any:
        """Stands in for a step, which it tells the other processes about."""
        first = not self._steps
        self._steps += 1
        self._look_at_others(data, first)
        self.exchange.failure = None
        self._running, self._split, self._averaged = True, False, False
        versions = [v._value._version for v in self.model.trainable_variables]
        try:
            outputs = own(data)
        except Exception:
            # Keras wraps it into how the model was called.
            if self.exchange.failure is not None:
                raise self.exchange.failure from None
            raise
        finally:
            self._running = False
        if name != "train_step":
            return outputs
        changed = versions != [v._value._version for v in self.model.trainable_variables]
        if changed and not self._averaged:
            raise RuntimeError(
                f"`{type(self.model).__name__}.train_step` changes weights, but not by an "
                "optimizer of Keras that the model has as an attribute, so the gradients of the "
                "processes are not averaged. Call `self.optimizer.apply(gradients, variables)` in "
                f"it. Received: model={self.model.name!r}"
            )
        if not self._split and first:
            warnings.warn(
                f"`{type(self.model).__name__}.train_step` calls neither the model nor a model in "
                "it, so every process computes the whole batch: right, but not faster.",
                stacklevel=2,
            )
        return outputs

    def _look_at_others(self, data: Any, first: bool) -> None:
        """Learns what the processes tell of a batch before any of them computes."""
        told = self.exchange.tell([_size(data), _checksum(data, first)])
        if len({tuple(numbers) for numbers in told}) > 1:
            raise ValueError(
                "The processes got different batches. All must pass the same data in the same "
                "order: shuffle a tf.data pipeline with a seed, and leave it whole, as each "
                f"process takes its part in the step. Received: batches of "
                f"{[size for size, _ in told]} samples in step {self._steps}"
            )

    def _call(self, model: keras.Model, own: Callable, *args, **kwargs) -> Any:
        """Stands in for the call of a model: for a part of the samples, in a step."""
        if not self._running or self._calling:
            return own(*args, **kwargs)
        tensors = [t for t in keras.tree.flatten((args, kwargs)) if _has_samples(t)]
        if not tensors:
            return own(*args, **kwargs)
        self._split = True
        part = _Part(self.exchange, len(tensors[0]))
        self._is_empty = part.is_empty
        layers = list(model._flatten_layers())
        losses = [len(layer._losses) for layer in layers]
        state = [v for v in model.non_trainable_variables if keras.backend.is_float_dtype(v.dtype)]
        versions = [v._value._version for v in state]
        args, kwargs = keras.tree.map_structure(part.take, (args, kwargs), none_is_leaf=False)
        self._calling = True
        try:
            with self._own_randomness():
                outputs = own(*args, **kwargs)
        finally:
            self._calling = False
        outputs = part.without_filling(outputs, model)
        changed = [
            v for v, version in zip(state, versions, strict=True) if v._value._version != version
        ]
        added = [
            (layer, i)
            for layer, count in zip(layers, losses, strict=True)
            for i in range(count, len(layer._losses))
        ]
        return self._exchange(part, outputs, changed, added)

    def _exchange(self, part: "_Part", outputs: Any, changed: list, added: list) -> Any:
        """Returns the outputs for all samples; means what else the call left behind."""
        flat = keras.tree.flatten(outputs)
        masks = [getattr(t, "_keras_mask", None) for t in flat]
        rows = [t for t in (*flat, *masks) if _is_tensor(t)]
        scalars = [layer._losses[i] for layer, i in added]
        sent = [part.padded(t) for t in rows]
        every = self.exchange.gather([*sent, *scalars, *(v._value for v in changed)])
        whole = iter([part.whole(own, [e[i] for e in every]) for i, own in enumerate(rows)])
        gathered = [next(whole) if _is_tensor(t) else t for t in flat]
        for tensor, mask in zip(gathered, masks, strict=True):
            if mask is not None:
                tensor._keras_mask = next(whole)
        first = len(sent)
        for place, (layer, i) in enumerate(added, first):
            layer._losses[i] = part.mean_loss(layer._losses[i], [e[place] for e in every])
        first += len(added)
        with torch.no_grad():
            for place, variable in enumerate(changed, first):
                variable._value.copy_(part.mean([e[place] for e in every]))
        return keras.tree.pack_sequence_as(outputs, gathered)

    def _apply(self, own: Callable, grads: Any, trainable_variables: Any = None) -> Any:
        """Stands in for `Optimizer.apply`: what it gets is the mean over the processes."""
        if not self._running or self._averaging:
            return own(grads, trainable_variables)
        grads = list(grads)
        known = [i for i, g in enumerate(grads) if g is not None]
        means = self.exchange.mean([torch.as_tensor(grads[i]) for i in known])
        for i, mean in zip(known, means, strict=True):
            grads[i] = mean
        self._averaged = self._averaging = True
        try:
            return own(grads, trainable_variables)
        finally:
            self._averaging = False

    def _total(self, values: list) -> list:
        """Sums over processes what those with samples have; gradients are summed, too."""
        if not self._calling:
            return values
        return [_Sum.apply(v * 0 if self._is_empty else v, self.exchange) for v in values]

    def _next_seed(self, own: Callable) -> Callable:
        @functools.wraps(own)
        def next_(generator, ordered=True):
            seed = own(generator, ordered)
            if self._calling:
                seed = seed.clone()
                seed[0] += _FAR * self.exchange.index
            return seed

        return next_

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Lets what torch draws by itself be other numbers in each process.

        What is drawn outside, such as the order of the data, stays the same in all of them.
        """
        outside = _random_states()
        if self._random is None:
            torch.manual_seed((torch.initial_seed() + _FAR * self.exchange.index) % 2**63)
        else:
            _set_random_states(self._random)
        try:
            yield
        finally:
            self._random = _random_states()
            _set_random_states(outside)


class _Part:
    """A process' part of a batch. Where it has no samples, it computes one and tells nothing of it.

    Not every layer can do with none: a convolution of no images has a wrong shape.
    """

    def __init__(self, exchange: TorchExchange, samples: int):
        self._exchange = exchange
        self._samples = samples
        self._borders = exchange.borders(samples)
        self._sizes = sizes(self._borders)
        self._start, self._end = self._borders[exchange.index :][:2]
        self._most = max(self._sizes)
        self.is_empty = self._start == self._end

    def take(self, x: Any) -> Any:
        """Returns the part of a tensor with a row for each sample; anything else as it is."""
        if not _has_samples(x) or len(x) != self._samples:
            return x
        part = _Take.apply(x, self._exchange, self._start, self._end, self._sizes)
        part = x[:1].detach() if self.is_empty else part
        return _with_mask(part, x, self.take)

    def without_filling(self, outputs: Any, model: keras.Model) -> Any:
        """Returns outputs without that for the sample that fills an empty part."""
        expected = max(1, self._end - self._start)

        def cut(y):
            if not _is_tensor(y):
                return y
            if not _has_samples(y) or len(y) != expected:
                self._exchange.failure = ValueError(
                    "Several processes share the samples of a batch, so each output of the model "
                    "must have a row for each sample. Compute what is of the whole batch in the "
                    f"loss or the step. Received: an output of shape {tuple(y.shape)} for "
                    f"{expected} samples of model={model.name!r}"
                )
                raise self._exchange.failure
            if not self.is_empty:
                return y
            return _with_mask(y[:0], y, lambda mask: mask[:0])

        return keras.tree.map_structure(cut, outputs, none_is_leaf=False)

    def padded(self, y: torch.Tensor) -> torch.Tensor:
        """Returns a part's rows, as many as the largest part has."""
        if len(y) == self._most:
            return y
        rows = y.new_zeros((self._most, *y.shape[1:]))
        rows[: len(y)] = y.detach()
        return rows

    def whole(self, own: torch.Tensor, every: list[torch.Tensor]) -> torch.Tensor:
        """Returns the rows of all parts; gradients flow into the own one."""
        rows = [part[:size] for part, size in zip(every, self._sizes, strict=True)]
        if not own.requires_grad:
            return torch.cat(rows)
        return _Whole.apply(own, self._exchange.count, self._start, self._end, *rows)

    def mean(self, every: list[torch.Tensor]) -> torch.Tensor:
        """Returns the mean of the parts' values, in which a part weighs as many samples as it has.

        It is exact where all values are equal.
        """
        parts = [(v, s / self._samples) for v, s in zip(every, self._sizes, strict=True) if s]
        first = parts[0][0]
        return first + sum((v - first) * share for v, share in parts[1:])

    def mean_loss(self, own: torch.Tensor, every: list[torch.Tensor]) -> torch.Tensor:
        """Returns the mean of a loss that a layer added; gradients flow into the own one."""
        mean = self.mean(every)
        if not own.requires_grad:
            return mean
        weight = self._exchange.count * (self._end - self._start) / self._samples
        return _MeanLoss.apply(own, mean, weight)


class _Take(torch.autograd.Function):
    """A part of a tensor; the gradient is put together from those of all parts."""

    @staticmethod
    def forward(ctx, x, exchange, start, end, rows):
        ctx.place = (exchange, rows)
        return x[start:end].clone() if x.requires_grad else x[start:end]

    @staticmethod
    def backward(ctx, grad):
        exchange, rows = ctx.place
        padded = grad.new_zeros((max(rows), *grad.shape[1:]))
        padded[: len(grad)] = grad
        every = exchange.gather([padded])
        whole = torch.cat([own[0][:n] for own, n in zip(every, rows, strict=True)])
        return whole / exchange.count, None, None, None, None


class _Whole(torch.autograd.Function):
    """All parts of a tensor; the own one's gradient stands for itself in a mean over processes."""

    @staticmethod
    def forward(ctx, own, count, start, end, *rows):
        ctx.place = (count, start, end, len(rows))
        return torch.cat(rows)

    @staticmethod
    def backward(ctx, grad):
        count, start, end, rows = ctx.place
        return grad[start:end] * count, None, None, None, *[None] * rows


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, as is the gradient."""

    @staticmethod
    def forward(ctx, value, exchange):
        ctx.exchange = exchange
        return exchange.mean([value])[0] * exchange.count

    @staticmethod
    def backward(ctx, grad):
        return ctx.exchange.mean([grad])[0] * ctx.exchange.count, None


class _MeanLoss(torch.autograd.Function):
    """The mean of the parts' losses; the own one's gradient weighs its samples."""

    @staticmethod
    def forward(ctx, own, mean, weight):
        ctx.weight = weight
        return mean.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.weight, None, None


def _with_mask(new: torch.Tensor, old: torch.Tensor, do: Callable) -> torch.Tensor:
    mask = getattr(old, "_keras_mask", None)
    if mask is not None:
        new._keras_mask = do(mask)
    return new


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def _has_samples(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.ndim > 0


def _size(data: Any) -> int:
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return len(next(part for part in keras.tree.flatten(x) if part is not None))


def _checksum(data: Any, first: bool) -> int:
    """Returns a number that tells batches apart, by the first and the last sample.

    On a GPU it would have to wait for what is computed, so there it looks at the first batch only.
    """
    total = 0
    for part in keras.tree.flatten(data):
        if part is None or not len(part):
            continue
        if _is_tensor(part):
            if part.is_cuda and not first:
                continue
            ends = torch.stack([part[0], part[-1]]).detach().cpu().numpy()
        else:
            ends = keras.ops.convert_to_numpy([part[0], part[-1]])
        total = zlib.crc32(ends.tobytes(), total)
    return total


def _is_plain_norm(layer: keras.layers.Layer) -> bool:
    plain = keras.layers.BatchNormalization
    return isinstance(layer, plain) and type(layer)._moments is plain._moments


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers that a model has as attributes, each once."""
    found = [getattr(model, "optimizer", None), *vars(model).values()]
    found = [one for one in found if isinstance(one, keras.optimizers.Optimizer)]
    return list({id(one): one for one in found}.values())


def _random_states() -> tuple:
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), gpu


def _set_random_states(states: tuple) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1])
