"""The model that trains a student against a teacher."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops
from keras.src.losses.loss import unscale_loss_for_distribution
from keras.src.trainers.trainer import model_supports_jit

from keras_optkit.compression.distillation.cached_teacher import CachedTeacher, student_inputs
from keras_optkit.compression.distillation.distillation_loss import DistillationLoss, check_number
from keras_optkit.compression.distillation.feature_losses import FeatureLoss
from keras_optkit.compression.distillation.feature_pairs import FeaturePairs
from keras_optkit.compression.distillation.moving_average_teacher import MovingAverageTeacher
from keras_optkit.compression.distillation.output_kind import check_kind
from keras_optkit.compression.distillation.output_pairs import OutputPairs
from keras_optkit.compression.distillation.outputs import named
from keras_optkit.compression.distillation.response_losses import SoftTargets
from keras_optkit.compression.distillation.teacher import (
    Teacher,
    input_shapes,
    load_teachers,
    preprocessors,
    require_built,
    run,
)
from keras_optkit.compression.distillation.teacher_cache import TeacherCache


class Distiller(keras.Model):
    """Trains a small model, the student, against the outputs of a larger one, the teacher.

    Compile and fit it as you would the student. The loss is
    `(1 - alpha) * loss + alpha * distillation_loss`, plus the student's own regularizers.
    `student` is the object that was passed in, ready to use at any time; `evaluate` and `predict`
    are the student's, and `save` writes the student alone. The teacher runs in inference mode, once
    per step, and nothing of it is changed. While `fit` runs, the logs hold `label_loss` and
    `distillation_loss` beside `loss`; with several losses also each of them, without its weight.

    `save_weights` and `load_weights` store what training needs to go on: the student, the
    projections and the optimizer. For the student alone use `distiller.student.save_weights`.

    Args:
        student: A built `keras.Model`. It is trained in place.
        teacher: A built `keras.Model`, the path of a saved one, or a list of these, whose outputs
            are averaged. Or a `TeacherCache` of any of these, whose `dataset` is then what to fit
            on, or a `MovingAverageTeacher`.
        losses: A `DistillationLoss`, or a list of them; their `weight` is in each. Defaults to
            `SoftTargets()`.
        alpha: Float from 0 to 1, the share of the distillation. 0 is plain training: the teacher is
            not asked. With 1 no labels are needed.
        teacher_output: What the teacher returns: `"logits"`, `"probabilities"`, or `"auto"`, which
            finds out from its last layer. One column is the logit or the probability of the second
            of two classes.
        student_output: The same for the student.
        teacher_preprocessor: A function of `keras.ops` from a batch of the student's inputs to one
            of the teacher's. By default images of another height and width are resized, for each
            of several teachers to its own. Not used with a `TeacherCache`, which has its own.
        ensemble: `"logits"` or `"probabilities"`: what of several teachers is averaged.
        name: String, the name of the model.

    Raises:
        ValueError: If a model is not built, shapes cannot match, an output or a layer is not there,
            what the teacher returns cannot be told, or the student has a `train_step` or a
            `compute_loss` of its own, which would not be run.

    Example:

    ```python
    distiller = keras_optkit.distillation.Distiller(student, teacher, alpha=0.7)
    distiller.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(x, y, epochs=10, validation_data=(x_val, y_val))
    distiller.save("student.keras")
    ```

    Reference:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: Any,
        losses: DistillationLoss | Sequence[DistillationLoss] | None = None,
        alpha: float = 0.5,
        teacher_output: str = "auto",
        student_output: str = "auto",
        teacher_preprocessor: Callable[[Any], Any] | None = None,
        ensemble: str = "logits",
        name: str | None = None,
    ):
        if not isinstance(student, keras.Model):
            raise ValueError(f"`student` must be a `keras.Model`. Received: student={student!r}")
        require_built("student", student)
        _require_usual_steps(student)
        # The policy says what inputs are cast to and whether the loss is scaled.
        super().__init__(name=name, dtype=student.dtype_policy)
        self.alpha = check_number("alpha", alpha, minimum=0.0, maximum=1.0)
        self.distillation_losses = _checked_losses(losses)
        if ensemble not in ("logits", "probabilities"):
            raise ValueError(
                f'`ensemble` must be "logits" or "probabilities". Received: ensemble={ensemble!r}'
            )
        feature_losses = [v for v in self.distillation_losses if isinstance(v, FeatureLoss)]
        layers = [loss.teacher_layer for loss in feature_losses]
        average = None
        if isinstance(teacher, TeacherCache):
            self._teacher = CachedTeacher(teacher, layers)
        else:
            if isinstance(teacher, MovingAverageTeacher):
                self._follow, teacher = teacher.follow, teacher.copy_of(student)
                average = teacher
            models = load_teachers(teacher, student)
            kind = check_kind("teacher_output", teacher_output)
            made = preprocessors(teacher_preprocessor, input_shapes(student), models)
            self._teacher = Teacher(models, made, layers, kind)
        self._outputs = OutputPairs(
            student, self._teacher, check_kind("student_output", student_output), ensemble
        )
        for loss in self.distillation_losses:
            if loss not in feature_losses:
                self._outputs.check(loss)
        self._features = FeaturePairs(student, self._teacher, feature_losses)
        # What one step hands from one method to the next. Each replica has a thread of its own.
        self._step = threading.local()
        # The student is the first layer, so its variables come first in the optimizer.
        self.student = student
        # The one teacher that is part of the training, and of its state.
        self.average = average
        self.projections = []
        self._trackers = []
        if self.alpha > 0:
            self.projections = self._features.projections
            names = ["label_loss", "distillation_loss"]
            if len(self.distillation_losses) > 1:
                names += [loss.name for loss in self.distillation_losses]
            self._trackers = [keras.metrics.Mean(name=name) for name in names]
        self.built = True

    @property
    def output_names(self) -> list[str]:
        """The names of the student's outputs, where it has them."""
        return self.student.output_names

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """The student's, and on JAX the teacher's as well."""
        variables = super().non_trainable_variables
        if keras.backend.backend() == "jax" and self.alpha > 0 and self.average is None:
            # As part of the step's state. Read from outside, they would be copied into what is
            # compiled.
            variables = [*variables, *self._teacher.variables]
        return variables

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any) -> None:
        """Configures the training of the student; the arguments are those of `keras.Model`.

        Args:
            optimizer: The optimizer, as for `keras.Model.compile`.
            loss: The student's loss on the labels, as for `keras.Model.compile`. It can be left out
                where `alpha` is 1.
            **kwargs: The other arguments of `keras.Model.compile`.

        Raises:
            ValueError: If there is no loss and `alpha` is below 1.
        """
        if loss is None and self.alpha < 1:
            raise ValueError(
                "`compile` needs the student's `loss` on the labels. To train without labels, pass "
                f"`alpha=1` to `Distiller`. Received: loss=None, alpha={self.alpha}"
            )
        super().compile(optimizer, loss, **kwargs)

    def _resolve_auto_jit_compile(self):
        teachers = self._teacher.models if self.alpha > 0 else []
        return super()._resolve_auto_jit_compile() and all(map(model_supports_jit, teachers))

    def call(self, inputs, training=None):
        inputs = student_inputs(inputs)
        if training and self.alpha > 0 and self._features.reader is not None:
            outputs, self._step.features = self._features.reader(inputs, training=True)
            return outputs
        return run(self.student, inputs, training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the loss of a batch: in training with the teacher, in `evaluate` without.

        Args:
            x: The inputs.
            y: The labels, or `None`.
            y_pred: What the student returned.
            sample_weight: The weights of the samples, or `None`.
            training: Boolean.
        """
        self._step.training = training
        labelled = self._compile_loss is not None
        if self.alpha == 0 or (labelled and not training):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if self.alpha < 1 and y is None:
            raise ValueError(
                "The student's loss needs labels, and this data has none. To train without labels, "
                f"pass `alpha=1` to `Distiller`. Received: y=None, alpha={self.alpha}"
            )
        parts = self._distillation_parts(x, y, y_pred, sample_weight, training)
        distillation = sum(
            loss.weight * part for loss, part in zip(self.distillation_losses, parts, strict=True)
        )
        label = ops.zeros(())
        if labelled and y is not None:
            label = self._compile_loss(y, y_pred, sample_weight)
        if training:
            tracked = [label, distillation, *parts]
            batch = ops.shape(keras.tree.flatten(y_pred)[0])[0]
            for tracker, value in zip(self._trackers, tracked, strict=False):
                tracker.update_state(unscale_loss_for_distribution(value), sample_weight=batch)
        own = [self._aggregate_additional_loss(loss) for loss in self.losses]
        return sum(own, (1.0 - self.alpha) * label + self.alpha * distillation)

    def _distillation_parts(self, x, y, y_pred, sample_weight, training) -> list:
        if training and self.average is not None:
            self._follow(self.student, self.average)
        answers, theirs = self._teacher(x)
        features = vars(self._step).pop("features", {})
        outputs = named(self.student, y_pred)
        parts = []
        for loss in self.distillation_losses:
            if not isinstance(loss, FeatureLoss):
                parts.append(self._outputs.compute(loss, answers, outputs, y, sample_weight))
            elif training:
                parts.append(self._features.compute(loss, theirs, features, sample_weight))
            else:
                parts.append(ops.zeros(()))
        return parts

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics and returns them; in `evaluate` only those of the student.

        Args:
            x: The inputs.
            y: The labels, or `None`.
            y_pred: What the student returned.
            sample_weight: The weights of the samples, or `None`.
        """
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if not getattr(self._step, "training", True):
            for tracker in self._trackers:
                logs.pop(tracker.name, None)
        return logs

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the student, which loads without this package.

        Args:
            filepath: The path, as for `keras.Model.save`.
            *args: As for `keras.Model.save`.
            **kwargs: As for `keras.Model.save`.
        """
        self.student.save(filepath, *args, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """Exports the student for inference.

        Args:
            filepath: The path, as for `keras.Model.export`.
            *args: As for `keras.Model.export`.
            **kwargs: As for `keras.Model.export`.
        """
        return self.student.export(filepath, *args, **kwargs)


def _require_usual_steps(student: keras.Model) -> None:
    for name in ("train_step", "compute_loss"):
        if getattr(type(student), name) is not getattr(keras.Model, name):
            raise ValueError(
                f"The student has a `{name}` of its own, and a `Distiller` trains by the usual "
                "one, so it would be left out. Write it in a subclass of `Distiller`, or pass the "
                f"layers as a plain `keras.Model`. Received: student of class {type(student)}"
            )


def _checked_losses(losses: Any) -> list[DistillationLoss]:
    if losses is None:
        losses = SoftTargets()
    found = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    for loss in found:
        if not isinstance(loss, DistillationLoss):
            raise ValueError(
                "`losses` must be a loss of `keras_optkit.distillation`, for example "
                f"`SoftTargets()`, or a list of them. Received: {loss!r}"
            )
    names = [loss.name for loss in found]
    if not found or len(set(names)) < len(names):
        raise ValueError(
            "`losses` must be at least one loss, and of different names: pass `name=` to those of "
            f"one class. Received: losses named {names}"
        )
    return found
