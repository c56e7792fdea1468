"""A model that trains for a trial, and is afterwards as it was, byte for byte."""

import contextlib
import random
import sys
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np

from keras_optkit.core.variables import global_seed_generator, read, write

# What `fit` leaves on a model beside its variables.
_ATTRIBUTES = ("_initial_epoch", "history", "steps_per_execution", "stop_training")
_FUNCTIONS = ("train_function", "test_function", "predict_function")
_MISSING = object()


@contextlib.contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Puts a model and the states of random numbers back when the block ends, however it ends.

    Put back are all variables of the model (statistics and states of `Dropout` among them), of its
    metrics and of its optimizers, in every replica, what is compiled, `history`, `trainable`, and
    the random states of Python, NumPy, Keras and torch. The values wait in the memory of the host.

    Args:
        model: A built `keras.Model` with a built optimizer. A variable that is made in the block
            has no value to go back to, and is warned of.
    """
    undo = [
        _attributes(model),
        random_states(),
        _trainable_flags(model),
        _compiled_parts(model),
        *([_torch_module(model)] if keras.backend.backend() == "torch" else []),
        _variables(model),
    ]
    try:
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


def _all_variables(model: keras.Model) -> list[keras.Variable]:
    owners = [model.optimizer, *vars(model).values()]
    optimizers = [o for o in owners if isinstance(o, keras.optimizers.Optimizer)]
    found = [*model.variables, *model.metrics_variables]
    for optimizer in optimizers:
        found.extend(optimizer.variables)
    generator = global_seed_generator()
    found.extend([generator.state] if generator is not None else [])
    return list({id(variable): variable for variable in found}.values())


def _variables(model: keras.Model) -> Callable[[], None]:
    values = [(variable, read(variable)) for variable in _all_variables(model)]
    known = {id(variable) for variable, _ in values}

    def put_back():
        for variable, value in values:
            write(variable, value)
        # Before its first batch a metric has no variables; the state of a fresh one is this.
        for metric in model.metrics:
            if any(id(variable) not in known for variable in metric.variables):
                metric.reset_state()
                known.update(id(variable) for variable in metric.variables)
        new = [v.path for v in _all_variables(model) if id(v) not in known]
        if new:
            warnings.warn(
                "Variables were made while the model trained, and keep the values that they got: "
                f"{', '.join(new[:5])}. Build the model and its optimizers first",
                stacklevel=2,
            )

    return put_back


def _attributes(model: keras.Model) -> Callable[[], None]:
    names = [*_ATTRIBUTES, *_FUNCTIONS]
    values = {name: getattr(model, name, _MISSING) for name in names}

    def put_back():
        for name, value in values.items():
            if value is not _MISSING:
                setattr(model, name, value)
            elif hasattr(model, name):
                delattr(model, name)

    return put_back


def _compiled_parts(model: keras.Model) -> Callable[[], None]:
    # A `fit` that has to build these reads a batch for it, and with it draws a shuffle. A later
    # `fit` draws the same only if it has as much to build.
    parts = [getattr(model, name, None) for name in ("_compile_loss", "_compile_metrics")]
    unbuilt = [part for part in parts if part is not None and not part.built]

    def put_back():
        for part in unbuilt:
            part.built = False
            if part is model._compile_loss:
                part.metrics.clear()

    return put_back


def _trainable_flags(model: keras.Model) -> Callable[[], None]:
    # The outer layer first: to set its flag sets those of its inner ones too.
    flags = [(layer, layer.trainable) for layer in model._flatten_layers()]

    def put_back():
        if any(layer.trainable != flag for layer, flag in flags):
            for layer, flag in flags:
                layer.trainable = flag

    return put_back


def random_states() -> Callable[[], None]:
    """Returns a function that puts the random states of Python, NumPy, Keras and torch back."""
    python, numpy, generator = random.getstate(), np.random.get_state(), global_seed_generator()
    torch = sys.modules.get("torch")
    cpu = torch and torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_available() else []

    def put_back():
        random.setstate(python)
        np.random.set_state(numpy)
        if torch:
            torch.set_rng_state(cpu)
            if gpus:
                torch.cuda.set_rng_state_all(gpus)
        if generator is None and global_seed_generator() is not None:
            _forget_global_generator()

    return put_back


def _forget_global_generator() -> None:
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)


def _torch_module(model: keras.Model) -> Callable[[], None]:
    """What a torch module has beside its parameters: modes, gradients and buffers."""
    model_mode, modes = model.training, [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gradients = [
        (parameter, None if parameter.grad is None else parameter.grad.detach().clone())
        for parameter in model.parameters()
    ]

    def put_back():
        import torch

        # Keras may have replaced an inner module meanwhile.
        model.train(model_mode)
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient

    return put_back
