"""A teacher: one model or several, run in inference mode, never trained and never saved."""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_optkit.compression.distillation.feature_reader import FeatureReader
from keras_optkit.compression.distillation.output_kind import recognise
from keras_optkit.compression.distillation.outputs import named


class Teacher:
    """One model or several that are asked, and never changed.

    It is no layer, so a model that holds it neither trains nor saves nor counts its weights.

    Args:
        models: List of built models.
        preprocessors: For each model a function from the student's inputs to its own, or `None`.
        layers: Names of layers whose outputs are wanted too; of a single model only.
        kind: `"logits"`, `"probabilities"` or `"auto"`, what the models return.
    """

    def __init__(
        self,
        models: list[keras.Model],
        preprocessors: Sequence[Callable[[Any], Any] | None],
        layers: Sequence[str] = (),
        kind: str = "auto",
    ):
        if layers and len(models) > 1:
            raise ValueError(
                "Losses of features need a single teacher: those of several have no mean. "
                f"Received: {len(models)} teachers and the layers {list(layers)}"
            )
        self.models = models
        self.kind = kind
        self.outputs = [output_kinds(model, kind) for model in models]
        self._preprocessors = preprocessors
        self.reader = FeatureReader(models[0], list(layers)) if layers else None

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables of all models, random seeds included."""
        return [variable for model in self.models for variable in model.variables]

    def __call__(self, x: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Returns the outputs of each model by name, and the features by their layers' names.

        Args:
            x: A batch of the student's inputs.
        """
        features: dict[str, Any] = {}
        answers = []
        with _no_gradients():
            for model, preprocessor in zip(self.models, self._preprocessors, strict=True):
                own = x if preprocessor is None else preprocessor(x)
                if self.reader is not None:
                    values, features = self.reader(own, training=False)
                else:
                    values = run(model, own, training=False)
                values = keras.tree.map_structure(ops.stop_gradient, values)
                answers.append(named(model, values))
            features = {name: ops.stop_gradient(value) for name, value in features.items()}
        return answers, features


def run(model: keras.Model, inputs: Any, training: bool | None) -> Any:
    """Returns what a model returns, also where its `call` takes no `training`.

    Args:
        model: The model.
        inputs: What it takes.
        training: Boolean or `None`.
    """
    return model(inputs, training=training) if model._call_has_training_arg else model(inputs)


def output_kinds(model: keras.Model, kind: str) -> dict[str, tuple[str | None, tuple | None]]:
    """Returns what each output of a model is, and its shape.

    Args:
        model: A built model.
        kind: What is said of it: `"logits"`, `"probabilities"`, or `"auto"` to find out.

    Returns:
        A dictionary from the output's name to its kind, `None` where it cannot be told, and its
        shape. It is empty for a model without symbolic outputs.
    """
    # Whatever is not Sequential or Functional shows its outputs only when it runs.
    if not getattr(model, "outputs", None):
        return {}
    structure = getattr(model, "_outputs_struct", None)
    structure = model.outputs if structure is None else structure
    return {
        name: (recognise(model, i) if kind == "auto" else kind, tuple(tensor.shape))
        for i, (name, tensor) in enumerate(named(model, structure).items())
    }


def load_teachers(teacher: Any, student: keras.Model | None = None) -> list[keras.Model]:
    """Returns the models that a teacher is given as.

    Args:
        teacher: A built model, the path of a saved one, or a list of these.
        student: The student, which must not share variables with them, or `None`.

    Raises:
        ValueError: If something else is among them, a model is not built, is the student itself or
            shares variables with it, or there is none.
    """
    teachers = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    if not teachers:
        raise ValueError(f"`teacher` must be at least one model. Received: teacher={teacher!r}")
    own = {id(variable) for variable in (student.variables if student is not None else [])}
    for i, model in enumerate(teachers):
        if isinstance(model, (str, os.PathLike)):
            model = teachers[i] = keras.saving.load_model(model, compile=False)
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`teacher` must be a `keras.Model`, the path of a saved one, a list of these, or "
                f"a `TeacherCache`. Received: teacher={model!r}"
            )
        require_built("teacher", model)
        if own & {id(variable) for variable in model.variables}:
            raise ValueError(
                "The teacher shares variables with the student, so it would be trained. Pass a "
                f"copy with weights of its own. Received: teacher={model!r}"
            )
    return teachers


def require_built(name: str, model: keras.Model) -> None:
    """Raises a `ValueError` if a model has no weights yet.

    Args:
        name: The argument's name, for the message.
        model: The model.
    """
    if not model.built:
        raise ValueError(
            f"`{name}` is not built: it has no weights yet. Let it begin with "
            "`keras.Input(shape)`, call `build(input_shape)`, or call it once on a batch. "
            f"Received: {name}={model!r}"
        )


def resizing(own: list[tuple] | None, wanted: list[tuple] | None) -> Callable[[Any], Any] | None:
    """Returns a function that resizes images for the teacher, where it must be.

    Args:
        own: The shapes of the inputs that there are, or `None` where they are not known.
        wanted: The shapes of the teacher's inputs, or `None`.

    Returns:
        A function of a batch of images, or `None` where the inputs fit as they are, or cannot be
        compared.

    Raises:
        ValueError: If the inputs differ in more than height and width.
    """
    if own is None or wanted is None or _fit(own, wanted):
        return None
    first = keras.config.image_data_format() == "channels_first"
    sides = slice(2, 4) if first else slice(1, 3)
    images = len(own) == len(wanted) == 1 and len(own[0]) == len(wanted[0]) == 4
    if images:
        size, resized = wanted[0][sides], list(own[0])
        resized[sides] = size
        images = None not in size and _fit([tuple(resized)], wanted)
    if not images:
        raise ValueError(
            "The teacher takes other inputs than the student. Pass `teacher_preprocessor=`, a "
            "function from a batch of the student's inputs to one of the teacher's. Received: "
            f"student's inputs {own}, teacher's inputs {wanted}"
        )
    return lambda batch: ops.image.resize(batch, size, antialias=True)


def input_shapes(model: keras.Model) -> list[tuple] | None:
    """Returns the shapes of a model's inputs, or `None` where it does not tell.

    Args:
        model: The model.
    """
    inputs = getattr(model, "inputs", None)
    return [tuple(tensor.shape) for tensor in inputs] if inputs else None


def preprocessors(
    given: Callable[[Any], Any] | None, own: list[tuple] | None, models: list[keras.Model]
) -> list[Callable[[Any], Any] | None]:
    """Returns what each teacher's inputs are made with.

    Args:
        given: The function that the user passed, for all of them, or `None` to resize images.
        own: The shapes of the inputs that there are, or `None` where they are not known.
        models: The teachers.

    Raises:
        ValueError: If it is no function, or inputs differ in more than height and width.
    """
    if given is None:
        return [resizing(own, input_shapes(model)) for model in models]
    if not callable(given):
        raise ValueError(
            "`teacher_preprocessor` must be a function from a batch of the student's inputs to one "
            f"of the teacher's. Received: teacher_preprocessor={given!r}"
        )
    return [given] * len(models)


def _fit(shapes: list[tuple], others: list[tuple]) -> bool:
    return len(shapes) == len(others) and all(
        len(a) == len(b) and all(None in (m, n) or m == n for m, n in zip(a, b, strict=True))
        for a, b in zip(shapes, others, strict=True)
    )


def _no_gradients() -> contextlib.AbstractContextManager:
    # The other backends leave out by themselves what no gradient reaches.
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()
