"""Which features of student and teacher are compared, and what that costs."""

from typing import Any

import keras
from keras import ops

from keras_optkit.compression.distillation.feature_losses import AttentionTransfer, FeatureLoss
from keras_optkit.compression.distillation.feature_reader import FeatureReader
from keras_optkit.compression.distillation.projection import Projection
from keras_optkit.compression.distillation.teacher import Teacher


class FeaturePairs:
    """The features that losses compare, and the projections between them.

    Args:
        student: The student.
        teacher: The teacher, which reads the same losses' layers.
        losses: The losses of features.

    Raises:
        ValueError: If a layer is not there or two shapes cannot match.
    """

    def __init__(self, student: keras.Model, teacher: Teacher, losses: list[FeatureLoss]):
        self.reader = None
        self.projections: list[Projection] = []
        self._projection_of: dict[str, Projection] = {}
        if not losses:
            return
        self.reader = FeatureReader(student, [loss.student_layer for loss in losses])
        for loss in losses:
            own = _channels_last_shape(self.reader.tensors[loss.student_layer].shape)
            theirs = _channels_last_shape(teacher.reader.tensors[loss.teacher_layer].shape)
            _check_shapes(loss, own, theirs)
            if loss.projects and own[-1] != theirs[-1]:
                name = f"projection_of_{loss.name}"
                projection = Projection(theirs[-1], name=name, dtype="float32")
                projection.build(own)
                self._projection_of[loss.name] = projection
                self.projections.append(projection)

    def compute(
        self,
        loss: FeatureLoss,
        theirs: dict[str, Any],
        own: dict[str, Any],
        sample_weight: Any,
    ) -> Any:
        """Returns the value of a loss for a batch, a scalar.

        Args:
            loss: One of the losses.
            theirs: The teacher's features by the names of their layers.
            own: The student's.
            sample_weight: The weights of the samples, or `None`; for several outputs, those of the
                first.
        """
        teacher = ops.cast(_channels_last(theirs[loss.teacher_layer]), "float32")
        student = ops.cast(_channels_last(own[loss.student_layer]), "float32")
        if loss.resizes and teacher.shape[1:-1] != student.shape[1:-1]:
            size = student.shape[1:-1]
            teacher = ops.image.resize(teacher, size, antialias=True, data_format="channels_last")
        if loss.name in self._projection_of:
            student = self._projection_of[loss.name](student)
        weights = keras.tree.flatten(sample_weight)[0]
        if weights is not None and len(weights.shape) > 1:
            # One feature is compared for each sample, so its steps or pixels count together.
            weights = ops.mean(weights, axis=tuple(range(1, len(weights.shape))))
        return loss(teacher, student, weights)


def _first(shape: tuple) -> bool:
    return len(shape) > 2 and keras.config.image_data_format() == "channels_first"


def _channels_last(x: Any) -> Any:
    return ops.moveaxis(x, 1, -1) if _first(x.shape) else x


def _channels_last_shape(shape: tuple) -> tuple:
    return (shape[0], *shape[2:], shape[1]) if _first(shape) else tuple(shape)


def _check_shapes(loss: FeatureLoss, own: tuple, theirs: tuple) -> None:
    received = (
        f"Received: '{loss.student_layer}' of the student with shape {own}, and "
        f"'{loss.teacher_layer}' of the teacher with shape {theirs}"
    )
    if isinstance(loss, AttentionTransfer) and min(len(own), len(theirs)) < 3:
        raise ValueError(
            f"The loss '{loss.name}' compares where the activations are, and a vector has no "
            f"places. Name layers in front of the pooling. {received}"
        )
    if not loss.resizes:
        return
    places = own[1:-1], theirs[1:-1]
    same = len(own) == len(theirs) and all(
        None in pair or pair[0] == pair[1] for pair in zip(*places, strict=True)
    )
    resizable = len(own) == len(theirs) == 4 and None not in (*places[0], *places[1])
    if not same and not resizable:
        raise ValueError(
            f"The loss '{loss.name}' can't match these shapes: the number of axes must be the same "
            f"and, but for the height and width of images, what lies between batch and channels. "
            f"{received}"
        )
