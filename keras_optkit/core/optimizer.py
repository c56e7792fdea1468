"""What is added to an optimizer for one `fit`: a rate, an action after each update, variables.

All of it runs inside the compiled step, so a step costs no Python and JAX sees it. Nothing of it
reaches a file: the optimizer's own variables, their order and its config stay as they are, so a
checkpoint written in mid-run loads without this package.
"""

import contextlib
from collections.abc import Callable, Sequence

import keras

from keras_optkit.core.fit_scope import FitScope


def require_compiled(model: keras.Model, who: str) -> keras.optimizers.Optimizer:
    """Returns the optimizer that updates the weights, which may sit inside a loss-scaling one.

    Args:
        model: The model that trains.
        who: The name of the caller, for the message.

    Raises:
        ValueError: If the model is not compiled, or its optimizer is not one of Keras'.
    """
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"`{who}` needs a model that is compiled with a Keras optimizer. Call "
            f"`model.compile(optimizer=...)` first. Received: optimizer={optimizer!r}"
        )
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def updates_per_batch(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the number of weight updates that one batch makes, below 1 under accumulation."""
    return 1.0 / (optimizer.gradient_accumulation_steps or 1)


def iterations(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns the number of weight updates that the optimizer has made."""
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def moving_average(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> keras.Variable | None:
    """Returns the optimizer's moving average of a variable, or `None` where it keeps none."""
    if not optimizer.use_ema:
        return None
    return optimizer._model_variables_moving_average[optimizer._get_variable_index(variable)]


def drive_learning_rate(
    optimizer: keras.optimizers.Optimizer, rate: Callable, scope: FitScope
) -> None:
    """Lets a function of the update count give the learning rate until the scope closes.

    The optimizer's own rate stays where it is, unused, and comes back when the scope closes.

    Args:
        optimizer: The optimizer, without loss scaling around it.
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
    additions = _Additions.of(optimizer)
    additions.variables.extend(variables)

    def remove():
        for variable in variables:
            optimizer._untrack_variable(variable)
            additions.remove("variables", variable)

    scope.on_close(remove)
    return variables


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
        if kind == "rate":
            self.rate = None
        else:
            kept = [i for i in getattr(self, kind) if i is not item]
            setattr(self, kind, kept)
        if self.rate is None and not self.actions and not self.variables:
            for name in (*self._METHODS, self._NAME):
                delattr(self._optimizer, name)
                if self._before.get(name) is not None:
                    setattr(self._optimizer, name, self._before[name])

    def _get_current_learning_rate(self):
        if self.rate is None:
            return self._own["_get_current_learning_rate"]()
        return self.rate(self._optimizer.iterations)

    def apply(self, grads, trainable_variables=None):
        self._own["apply"](grads, trainable_variables)
        if len(grads) > 0:
            for action in self.actions:
                action()

    def _stored_variables(self) -> list[keras.Variable]:
        added = {id(v) for v in self.variables}
        return [v for v in self._optimizer.variables if id(v) not in added]

    def save_own_variables(self, store):
        for i, variable in enumerate(self._stored_variables()):
            store[str(i)] = keras.ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        for i, variable in enumerate(self._stored_variables()):
            variable.assign(store[str(i)])
