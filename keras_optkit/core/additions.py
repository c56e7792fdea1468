"""What is added to an optimizer for one `fit`: a rate, a momentum, actions, variables.

All of it runs inside the compiled step, so a step costs no Python and JAX sees it. Nothing of it
reaches a file: the optimizer's own variables, their order and its config stay as they are, so a
checkpoint written in mid-run loads without this package.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_optkit.core.fit_scope import FitScope
from keras_optkit.core.optimizer import members


def drive_learning_rate(
    optimizer: keras.optimizers.Optimizer, rate: Callable, scope: FitScope
) -> None:
    """Lets a function of the update count give the learning rate until the scope closes.

    The optimizer's own rate stays where it is, unused, and comes back when the scope closes.

    Args:
        optimizer: A single optimizer, without loss scaling around it.
        rate: A function from the update count (a scalar integer tensor) to the learning rate (a
            scalar).
        scope: The `FitScope` that the change belongs to.

    Raises:
        ValueError: If something drives the rate of this optimizer already.
    """
    additions = _Additions.of(optimizer)
    if additions.rate is not None:
        raise ValueError(
            "Two callbacks set the learning rate of one optimizer; keep one of them. "
            f"Received: {scope.owner!r} beside another"
        )
    additions.rate = rate
    scope.on_close(lambda: additions.remove("rate"))


def scale_learning_rate(
    optimizer: keras.optimizers.Optimizer, scale: Callable, scope: FitScope
) -> None:
    """Lets a function change the learning rate, whoever gives it, until the scope closes.

    Args:
        optimizer: A single optimizer, without loss scaling around it.
        scale: A function from the rate (a scalar) and the update count (a scalar integer tensor)
            to the rate that is used (a scalar).
        scope: The `FitScope` that the change belongs to.
    """
    additions = _Additions.of(optimizer)
    additions.scales.append(scale)
    scope.on_close(lambda: additions.remove("scales", scale))


def drive_momentum(
    optimizer: keras.optimizers.Optimizer, momentum: Callable, scope: FitScope
) -> None:
    """Lets a function of the update count give `momentum` or `beta_1` until the scope closes.

    Args:
        optimizer: A single optimizer, without loss scaling around it.
        momentum: A function from the update count (a scalar integer tensor) to a scalar float32
            tensor in (0, 1).
        scope: The `FitScope` that the change belongs to.

    Raises:
        ValueError: If the optimizer has neither, or has a momentum of 0.
    """
    own = [(name, getattr(optimizer, name)) for name in _MOMENTA if getattr(optimizer, name, 0)]
    if not own:
        raise ValueError(
            "The schedule cycles the momentum, and this optimizer has none. Use one with `beta_1`, "
            "such as Adam, or give it a momentum, as in `SGD(momentum=0.9)`; or pass "
            f"`cycle_momentum=False`. Received: optimizer={optimizer!r}"
        )
    additions = _Additions.of(optimizer)
    additions.momentum = momentum
    # Read once: the threads of several replicas would see what another has put in its place.
    additions.own_momentum = own[0]
    scope.on_close(lambda: additions.remove("momentum"))


def learning_rate_at(optimizer: keras.optimizers.Optimizer, update: int) -> float:
    """Returns the learning rate of an update; in a `MultiOptimizer`, the highest of its members'.

    Args:
        optimizer: The optimizer, without loss scaling around it.
        update: Integer, the count of updates made before.
    """
    return max(_rate_of(member, update) for member in members(optimizer))


def _rate_of(optimizer: keras.optimizers.Optimizer, update: int) -> float:
    own = optimizer._learning_rate
    additions = vars(optimizer).get(_Additions._NAME)
    if additions is not None and additions.rate is not None:
        rate = additions.rate(update)
    elif isinstance(own, keras.optimizers.schedules.LearningRateSchedule):
        rate = own(update)
    else:
        rate = own() if callable(own) else own
    for scale in additions.scales if additions is not None else []:
        rate = scale(rate, update)
    return float(keras.ops.convert_to_numpy(rate))


def after_update(
    optimizer: keras.optimizers.Optimizer, action: Callable[[], None], scope: FitScope
) -> None:
    """Calls a function in the compiled step after every update until the scope closes.

    It runs behind the update itself, moving averages and constraints, with `optimizer.iterations`
    counting the update that was just made.

    Args:
        optimizer: The optimizer, without loss scaling around it.
        action: A function without arguments, of `keras.ops`, that may assign the optimizer's and
            the model's variables, outside of conditionals only.
        scope: The `FitScope` that the change belongs to.
    """
    additions = _Additions.of(optimizer)
    additions.actions.append(action)
    scope.on_close(lambda: additions.remove("actions", action))


def add_variables(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    initializer: str,
    name: str,
    scope: FitScope,
) -> list[keras.Variable]:
    """Adds variables that the compiled step may assign, until the scope closes.

    They are part of the optimizer's state in the step (which JAX needs) and of no file.

    Args:
        model: The model that trains; on TensorFlow its distribution strategy holds the variables.
        optimizer: The optimizer, built, without loss scaling around it.
        shapes: The shape of each variable.
        dtype: The data type of all of them.
        initializer: The name of a Keras initializer.
        name: The name of each variable.
        scope: The `FitScope` that they belong to.

    Returns:
        A list of `keras.Variable`, one for each shape.
    """
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        variables = [
            optimizer.add_variable(
                shape, initializer, dtype, aggregation="only_first_replica", name=name
            )
            for shape in shapes
        ]
    # Loss scaling writes the variables of the optimizer inside it, too.
    holders = [optimizer]
    outer = model.optimizer
    while isinstance(outer, keras.optimizers.LossScaleOptimizer):
        holders.append(outer)
        outer = outer.inner_optimizer
    additions = [_Additions.of(holder) for holder in holders]
    for each in additions:
        each.variables.extend(variables)

    def remove():
        for variable in variables:
            optimizer._untrack_variable(variable)
            for each in additions:
                each.remove("variables", variable)

    scope.on_close(remove)
    return variables


def own_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Returns the variables of an optimizer without those that are added for this `fit`.

    Args:
        optimizer: The optimizer, as the model was compiled with it.
    """
    inner = optimizer
    while isinstance(inner, keras.optimizers.LossScaleOptimizer):
        inner = inner.inner_optimizer
    additions = [vars(each).get(_Additions._NAME) for each in (inner, *members(inner))]
    added = {id(v) for each in additions if each is not None for v in each.variables}
    return [variable for variable in optimizer.variables if id(variable) not in added]


# What optimizers call the share of the old step that goes into the next.
_MOMENTA = ("momentum", "beta_1")


class _Additions:
    """What is added to one optimizer at present, and the methods that stand in front of its own."""

    # Kept on the optimizer itself: the two refer to each other and go together.
    _NAME = "_optkit_additions"
    _METHODS = (
        "_get_current_learning_rate",
        "apply",
        "save_own_variables",
        "load_own_variables",
    )

    @classmethod
    def of(cls, optimizer: keras.optimizers.Optimizer) -> "_Additions":
        if cls._NAME not in vars(optimizer):
            setattr(optimizer, cls._NAME, cls(optimizer))
        return vars(optimizer)[cls._NAME]

    def __init__(self, optimizer: keras.optimizers.Optimizer):
        self.rate: Callable | None = None
        self.scales: list[Callable] = []
        self.momentum: Callable | None = None
        self.own_momentum: tuple[str, float] | None = None
        self.actions: list[Callable[[], None]] = []
        self.variables: list[keras.Variable] = []
        self._optimizer = optimizer
        self._own: dict[str, Callable] = {}
        # An instance may shadow a method of its class already.
        self._before = {name: vars(optimizer).get(name) for name in self._METHODS}
        for name in self._METHODS:
            if not hasattr(optimizer, name):
                raise RuntimeError(
                    f"keras_optkit relies on `Optimizer.{name}`, which Keras {keras.__version__} "
                    f"does not have. Received: optimizer={optimizer!r}"
                )
            self._own[name] = getattr(optimizer, name)
            setattr(optimizer, name, getattr(self, name))

    def remove(self, kind: str, item=None) -> None:
        if kind in ("rate", "momentum"):
            setattr(self, kind, None)
        else:
            kept = [i for i in getattr(self, kind) if i is not item]
            setattr(self, kind, kept)
        singles = (self.rate, self.momentum)
        if singles == (None, None) and not (self.scales or self.actions or self.variables):
            for name in (*self._METHODS, self._NAME):
                delattr(self._optimizer, name)
                if self._before.get(name) is not None:
                    setattr(self._optimizer, name, self._before[name])

    def _get_current_learning_rate(self):
        update = self._optimizer.iterations
        rate = self.rate(update) if self.rate else self._own["_get_current_learning_rate"]()
        for scale in self.scales:
            rate = scale(rate, update)
        return rate

    def apply(self, grads, trainable_variables=None):
        with self._driven_momentum():
            self._own["apply"](grads, trainable_variables)
        if len(grads) > 0:
            for action in self.actions:
                action()

    @contextlib.contextmanager
    def _driven_momentum(self):
        if self.momentum is None:
            yield
            return
        optimizer, (name, own) = self._optimizer, self.own_momentum
        value = self.momentum(optimizer.iterations)
        # Keras on torch passes it to functions that take Python numbers only.
        eager = keras.backend.backend() == "torch"
        vars(optimizer)[name] = float(value) if eager else _Momentum(value)
        try:
            yield
        finally:
            vars(optimizer)[name] = own

    def _stored_variables(self) -> list[keras.Variable]:
        added = {id(v) for v in self.variables}
        return [v for v in self._optimizer.variables if id(v) not in added]

    def save_own_variables(self, store):
        for i, variable in enumerate(self._stored_variables()):
            store[str(i)] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        for i, variable in enumerate(self._stored_variables()):
            variable.assign(store[str(i)])


class _Momentum:
    """A tensor in the place of an optimizer's momentum, which is a Python number.

    Some optimizers ask in Python whether they have momentum at all, which a tensor cannot answer
    inside a compiled step. This does: they have.
    """

    dtype = "float32"

    def __init__(self, value: Any):
        self._value = value

    def __ne__(self, other):
        return True

    def __gt__(self, other):
        return True

    def __tf_tensor__(self, dtype=None, name=None):
        return keras.ops.cast(self._value, getattr(dtype, "name", dtype) or self.dtype)

    def __jax_array__(self):
        return self._value

    def __mul__(self, other):
        return self._value * other

    __rmul__ = __mul__

    def __sub__(self, other):
        return self._value - other

    def __rsub__(self, other):
        return other - self._value
