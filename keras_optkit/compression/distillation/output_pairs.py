"""Which outputs of student and teacher are compared, and what that costs."""

from typing import Any

import keras
from keras import ops

from keras_optkit.compression.distillation.distillation_loss import DistillationLoss
from keras_optkit.compression.distillation.output_kind import one_column, to_logits, two_classes
from keras_optkit.compression.distillation.outputs import counterpart, part_of, resolve
from keras_optkit.compression.distillation.teacher import Teacher, output_kinds


class OutputPairs:
    """The outputs of a student, those of its teacher that belong to them, and their kinds.

    Args:
        student: The student.
        teacher: The teacher.
        student_kind: `"logits"`, `"probabilities"` or `"auto"`.
        ensemble: `"logits"` or `"probabilities"`: what of several teachers is averaged.
    """

    def __init__(self, student: keras.Model, teacher: Teacher, student_kind: str, ensemble: str):
        self._student = student
        self._teacher = teacher
        self._ensemble = ensemble
        self._student_kind = student_kind
        self._own = output_kinds(student, student_kind)

    def check(self, loss: DistillationLoss) -> None:
        """Raises a `ValueError` if a loss cannot be computed, as far as the models show it.

        Args:
            loss: A loss that compares outputs.
        """
        own = self._own
        if not own:
            self._require_told("student", self._student_kind)
            return
        for theirs in self._teacher.outputs:
            if not theirs:
                self._require_told("teacher", self._teacher.kind)
                continue
            for name, other in self._pairs(loss, list(own), list(theirs)):
                _check_shapes(loss, name, own[name][1], theirs[other][1])
                for whose, (kind, shape), told in (
                    ("student", own[name], self._student_kind),
                    ("teacher", theirs[other], self._teacher.kind),
                ):
                    _check_kind(loss, whose, kind, shape)
                    if told == "auto" and kind == "logits":
                        _check_classes(loss, whose, shape)

    def _require_told(self, whose: str, kind: str) -> None:
        if kind == "auto":
            _check_kind(None, whose, None, ())

    def compute(
        self,
        loss: DistillationLoss,
        answers: list[dict[str, Any]],
        outputs: dict[str, Any],
        labels: Any,
        sample_weight: Any,
    ) -> Any:
        """Returns the value of a loss for a batch, a scalar.

        Args:
            loss: A loss that compares outputs.
            answers: What each teacher returned, by name.
            outputs: What the student returned, by name.
            labels: The labels of the batch, in any structure that Keras takes, or `None`.
            sample_weight: The weights of its samples, in the same structures, or `None`.
        """
        total = 0.0
        names = list(outputs)
        for name, other in self._pairs(loss, names, list(answers[0])):
            student = outputs[name]
            if self._kind(self._own, name, self._student_kind) == "probabilities":
                student = to_logits(student, "probabilities")
            teacher = self._mean(answers, other)
            if student.shape[-1] == 1:
                student = two_classes(student)
            _check_shapes(loss, name, tuple(student.shape), tuple(teacher.shape))
            if outputs[name].shape[-1] == 1 and not loss.compares_classes:
                student, teacher = one_column(student), one_column(teacher)
            target = teacher
            if loss.needs_labels:
                label = part_of(labels, name, names)
                if label is None:
                    raise ValueError(
                        f"The loss '{loss.name}' needs labels, and this data has none for the "
                        f"output '{name}'. Pass them to `fit`, or leave the loss out. "
                        f"Received: y={labels!r}"
                    )
                target = (teacher, label)
            total = total + loss(target, student, part_of(sample_weight, name, names))
        return total

    def _pairs(
        self, loss: DistillationLoss, names: list[str], others: list[str]
    ) -> list[tuple[str, str]]:
        chosen = resolve(loss.output, names, "The student")
        if len(chosen) > 1 and len(others) == 1:
            raise ValueError(
                f"The teacher has one output and the student {len(chosen)}: tell which one is "
                f"meant by `output=` in the loss '{loss.name}'. Received: student's outputs {names}"
            )
        return [(name, counterpart(name, names, others)) for name in chosen]

    def _mean(self, answers: list[dict[str, Any]], other: str) -> Any:
        logits = [
            to_logits(ops.cast(values[other], "float32"), self._kind(kinds, other, "logits"))
            for values, kinds in zip(answers, self._teacher.outputs, strict=True)
        ]
        logits = [two_classes(v) if v.shape[-1] == 1 else v for v in logits]
        if len(logits) == 1:
            return logits[0]
        if self._ensemble == "logits":
            return ops.mean(ops.stack(logits), axis=0)
        return ops.log(ops.mean(ops.softmax(ops.stack(logits)), axis=0))

    def _kind(self, kinds: dict, name: str, told: str) -> str:
        return kinds[name][0] if name in kinds else told


def _check_kind(loss: DistillationLoss | None, whose: str, kind: str | None, shape: tuple) -> None:
    if kind is None:
        raise ValueError(
            f"Whether the {whose} returns logits or probabilities can't be told from its last "
            f'layer. Pass `{whose}_output="logits"` or `{whose}_output="probabilities"`. '
            f"Received: {whose}_output='auto'"
        )
    if kind == "probabilities" and not loss.shift_invariant and shape[-1] != 1:
        raise ValueError(
            f"The loss '{loss.name}' compares logits, which can't be had from probabilities: "
            f"leave the softmax at the end of the {whose} out, or use `SoftTargets`. "
            f"Received: {whose}_output={kind!r}"
        )


def _check_shapes(loss: DistillationLoss, name: str, own: tuple, theirs: tuple) -> None:
    fit = len(own) == len(theirs) and all(
        None in (m, n) or m == n for m, n in zip(own[1:], theirs[1:], strict=True)
    )
    if not fit:
        raise ValueError(
            f"The loss '{loss.name}' compares outputs of one shape: the same classes, in the same "
            f"order. Received: '{name}' of the student with shape {own}, and the teacher's with "
            f"shape {theirs}"
        )


def _check_classes(loss: DistillationLoss, whose: str, shape: tuple) -> None:
    if loss.compares_classes and shape[-1] == 1:
        raise ValueError(
            f"The loss '{loss.name}' compares classes, and the one column of the {whose} may be "
            f'the logit of two or a number of its own. Pass `{whose}_output="logits"` for the '
            "former, and use `SquaredLogits` for the latter. "
            f"Received: {whose}_output='auto', an output of shape {shape}"
        )
