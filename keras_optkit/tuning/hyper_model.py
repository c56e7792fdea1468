"""The hypermodel that adds what this package knows to the user's own `build()`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
from keras_tuner.errors import FatalTypeError, FatalValueError

from keras_optkit.core.graph import rebuild
from keras_optkit.core.monitor import compiled_metrics
from keras_optkit.tuning.apply import (
    apply_to_model,
    callbacks_for,
    check_compiled,
    check_possible,
    compile_arguments,
    own_rate,
)
from keras_optkit.tuning.objective import check_reported, check_validated
from keras_optkit.tuning.settled_epochs import SettledEpochs
from keras_optkit.tuning.soft_labels import label_kind, number_of_classes, soft_arguments
from keras_optkit.tuning.space import Space
from keras_optkit.tuning.training_data import prepare, updates


class OptkitHyperModel(keras_tuner.HyperModel):
    """Adds to a model that already trains what can be searched around it.

    It goes where KerasTuner takes a hypermodel. What is in the space changes from trial to trial,
    and nothing else: the loss, the metrics, the weights of either, `jit_compile` and
    `steps_per_execution` stay as `build` compiled them.

    The space is a dictionary. Behind each name stands one of:

    - `True`, for what is usually searched (the table below);
    - a tuple `(low, high)`, for a range with both ends in it;
    - a list, for some values to choose from;
    - one value, which every trial then has;
    - `False`, which is the same as to leave the name out: it stays as the model has it.

    | name | with `True` | what it does |
    | --- | --- | --- |
    | `optimizer` | adam, sgd | another optimizer; clipping and accumulation stay |
    | `learning_rate` | the model's own, /10 to x10; with `optimizer`, that one's usual range | |
    | `momentum` | 0.8, 0.9, 0.95 | of SGD; plays a part with that only |
    | `schedule` | constant, cosine | or linear, one_cycle, over the whole run |
    | `warmup` | 0 to 0.2 | share of the run; not with one_cycle |
    | `weight_decay` | 1e-5 to 1e-1 | decoupled, not of biases, gamma and beta |
    | `batch_size` | 32, 64, 128 | of arrays or of a `tf.data.Dataset` |
    | `epochs` | 10 to 40 | in the place of the `epochs` given to `search` |
    | `batch_norm` | none, before_activation, after_activation | BatchNorm behind each layer |
    | `dropout` | 0 to 0.5 | of the Dropout layers; without any, one before the last Dense |
    | `augmentation` | none, rand_augment, trivial_augment_wide | or auto_augment, aug_mix |
    | `augmentation_strength` | 1 to 10 | magnitude of rand_augment, severity of aug_mix |
    | `mixing` | none, mixup, cutmix | of images and labels |
    | `mixing_alpha` | 0.1 to 1 | with mixup and cutmix only |
    | `label_smoothing` | 0 to 0.2 | of the labels for training, not of those for validation |
    | `ema` | 0, 0.99, 0.999 | decay of `WeightAveraging`, 0 for none |
    | `pruning` | 0, 0.5, 0.8 | final sparsity of `Pruning`, 0 for none |

    The default space is small: the learning rate, its schedule and weight decay. A search over a
    few trials finds little in a large space, and these three are what depends most on the model and
    the data. Probst et al. found, for six kinds of learners, that a few parameters of each make up
    most of what tuning gains. The Tuning Playbook counts the learning rate and regularization among
    what has to be searched anew with nearly every change, and the batch size as a matter of speed
    and not of accuracy. The optimizer stays, since comparing two of them fairly takes a search of
    each one's own parameters.
    Augmentation, mixing, smoothing, dropout and averages pay where a model overfits; put them in
    when it does.

    Labels are mixed and smoothed in training only, so that the validation loss of all trials means
    the same. Where a search is for the best epoch, epochs count from when the pruning target is
    reached.

    Args:
        build: A function that returns a compiled model, `build()` or `build(hp)`; or a
            `keras_tuner.HyperModel`; or a compiled Sequential or Functional model, from whose
            weights every trial then begins.
        space: Dictionary as above, a list of names (each as with `True`), or `None` for
            `tuning.DEFAULT_SPACE` without what `build(hp)` searches itself.
        value_range: Pair of numbers, black and white of float images, for augmentation. `None`
            tells it from the data.
        seed: Integer or `None`, for augmentation and the order of augmented images.
        name: String, the name of the hypermodel.

    Raises:
        ValueError: If the space is empty, holds a name that is not known (the nearest is offered)
            or a range that makes no sense; at the first build, if `build` returns no compiled
            model, the model cannot take what is searched, or `build(hp)` searches the same name.

    Example:

    ```python
    space = {**keras_optkit.tuning.DEFAULT_SPACE, "mixing": True, "batch_size": [64, 128]}
    hypermodel = keras_optkit.tuning.OptkitHyperModel(build, space)
    tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=20)
    tuner.search(x, y, validation_split=0.2, epochs=10)
    ```

    Reference:
        Probst, Boulesteix and Bischl, "Tunability: Importance of Hyperparameters of Machine
        Learning Algorithms", 2019. Godbole et al., "Deep Learning Tuning Playbook", 2023.
    """

    def __init__(
        self,
        build: Callable | keras_tuner.HyperModel | keras.Model,
        space: Mapping[str, Any] | Sequence[str] | None = None,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
        name: str | None = None,
    ):
        self._source = build
        self._make, own_search = _builder(build)
        self._space = Space(space)
        self._space_is_default = space is None
        if not self._space.names and not own_search:
            raise ValueError(
                "The space is empty: there is nothing to search. Name something, as in "
                "space=['learning_rate'], give a range or several values, or let `build(hp)` "
                f"search something itself. Received: space={space!r}"
            )
        self.value_range = value_range
        self.seed = seed
        self._checked = False
        super().__init__(name=name)

    @property
    def space(self) -> Space:
        """What is searched, without what `build(hp)` searches itself. `str` describes it."""
        return self._space

    def values(self, hp: Any) -> dict[str, Any]:
        """Returns the values of a trial by the names in the space.

        Args:
            hp: `keras_tuner.HyperParameters`, of a trial or of `get_best_hyperparameters()`.
        """
        return self._space.values(hp.values)

    def build(self, hp: Any) -> keras.Model:
        """Builds the user's model with the values of a trial.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A compiled model, with the user's loss and metrics.
        """
        known = {p.name for p in hp.space}
        model = self._make(hp)
        if not isinstance(model, keras.Model):
            raise FatalTypeError(
                "`build` must return a compiled `keras.Model`. "
                f"Received: {model!r} of type {type(model).__name__}"
            )
        try:
            check_compiled(model)
            if not self._checked:
                self._check_names({p.name for p in hp.space} - known)
                names = {*self._space.searched, *self._space.fixed}
                check_possible(model, self._space.possible, names)
            values = self._space.declare(hp, own_rate(model))
            if not hp.space:
                raise ValueError(
                    "The space is empty: neither `space` nor `build(hp)` has anything to search. "
                    f"Received: space={self._space!s}"
                )
            model = apply_to_model(model, values)
        except ValueError as error:
            # KerasTuner takes any other error for a failure of this trial alone.
            raise FatalValueError(str(error)) from error
        self._checked = True
        return model

    def _check_names(self, own: set[str]) -> None:
        twice = own & set(self._space.names)
        if twice and self._space_is_default:
            self._space = self._space.without(sorted(twice))
        elif twice:
            raise ValueError(
                f"`build(hp)` searches {' and '.join(map(repr, sorted(twice)))} itself, under the "
                "same name. Leave it out of the space, or out of `build`. "
                f"Received: a space of {', '.join(self._space.names)}"
            )

    def fit(self, hp: Any, model: keras.Model, *args, **kwargs) -> Any:
        """Trains a model that `build` returned with the values of a trial.

        Outside of a search, an argument `epochs` counts and not the value of the trial.

        Args:
            hp: `keras_tuner.HyperParameters`.
            model: The model.
            *args: Arguments of `keras.Model.fit`.
            **kwargs: Arguments of `keras.Model.fit`.

        Returns:
            What `fit` returns.
        """
        given = inspect.signature(keras.Model.fit).bind(model, *args, **kwargs).arguments
        given.pop("self")
        values = self.values(hp)
        callbacks = list(given.pop("callbacks", None) or [])
        objective = next((c.objective for c in callbacks if hasattr(c, "objective")), None)
        try:
            if objective is not None and objective.name != "default_objective":
                check_reported(objective, model)
                check_validated(objective, compiled_metrics(model) or (), (), given)
            if "epochs" in values and "tuner/epochs" in hp.values:
                raise ValueError(
                    "Hyperband sets the epochs of each trial itself. Leave 'epochs' out of the "
                    f"space. Received: epochs={values['epochs']}"
                )
            soft = _needs_soft_labels(values)
            compiled = compile_arguments(model) if soft else {}
            kind = label_kind(compiled["loss"]) if soft else None
            classes = number_of_classes(model) if kind else None
            if objective is None and "epochs" in given:
                # No trial but a training with the values of one, as in `retrain_best`.
                values.pop("epochs", None)
            given = prepare(given, values, kind, classes, self.value_range, self.seed)
            own = callbacks_for(model, values, updates(given))
        except ValueError as error:
            raise FatalValueError(str(error)) from error
        settled = SettledEpochs(own, objective) if values.get("pruning") and objective else None
        given["callbacks"] = [*own, *([settled] if settled else []), *callbacks]
        if kind:
            model.compile(**soft_arguments(compiled))
        try:
            if isinstance(self._source, keras_tuner.HyperModel):
                history = self._source.fit(hp, model, **given)
            else:
                history = model.fit(**given)
        finally:
            if kind:
                # What is loaded or evaluated later takes labels as the user has them.
                model.compile(**compiled)
        return settled.complete(history) if settled else history

    def __str__(self) -> str:
        count = len(self._space.names)
        lines = "\n".join(f"  {line}" for line in str(self._space).splitlines())
        return f"Search space of {count} parameter{'s' * (count != 1)}:\n{lines}"


def _needs_soft_labels(values: Mapping[str, Any]) -> bool:
    return "label_smoothing" in values or values.get("mixing", "none") != "none"


def _builder(build: Any) -> tuple[Callable, bool]:
    """Returns a function from `hp` to a model, and whether it may search something itself."""
    if isinstance(build, keras_tuner.HyperModel):
        return build.build, True
    if isinstance(build, keras.Model):
        arguments = compile_arguments(build)
        rebuild(build)  # What cannot be copied is told now.
        return lambda hp: _copy(build, arguments), False
    if not callable(build):
        raise ValueError(
            "`build` must be a function that returns a compiled model, a `keras_tuner.HyperModel`, "
            f"or a compiled model. Received: build={build!r}"
        )
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return build, True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    takes_hp = bool(required) or any(p.name == "hp" for p in parameters)
    if len(required) > 1:
        names = ", ".join(p.name for p in required)
        raise ValueError(
            "`build` must take no argument, or the one that KerasTuner passes, `hp`. "
            f"Received: a function of {names}"
        )
    return (build, True) if takes_hp else ((lambda hp: build()), False)


def _copy(model: keras.Model, arguments: dict[str, Any]) -> keras.Model:
    new = rebuild(model)
    optimizer = arguments["optimizer"]
    fresh = type(optimizer).from_config(optimizer.get_config())
    new.compile(**{**arguments, "optimizer": fresh})
    return new
