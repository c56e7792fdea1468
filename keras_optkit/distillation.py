"""Distillation: train a small model, the student, against a larger one, the teacher."""

from keras_optkit.compression.distillation.distillation_loss import DistillationLoss
from keras_optkit.compression.distillation.distiller import Distiller
from keras_optkit.compression.distillation.feature_losses import (
    AttentionTransfer,
    FeatureHint,
    FeatureLoss,
    RelationalAngle,
    RelationalDistance,
)
from keras_optkit.compression.distillation.moving_average_teacher import MovingAverageTeacher
from keras_optkit.compression.distillation.response_losses import (
    DecoupledTargets,
    HardTargets,
    JensenShannon,
    SoftTargets,
    SquaredLogits,
)
from keras_optkit.compression.distillation.teacher_cache import TeacherCache

__all__ = [
    "AttentionTransfer",
    "DecoupledTargets",
    "DistillationLoss",
    "Distiller",
    "FeatureHint",
    "FeatureLoss",
    "HardTargets",
    "JensenShannon",
    "MovingAverageTeacher",
    "RelationalAngle",
    "RelationalDistance",
    "SoftTargets",
    "SquaredLogits",
    "TeacherCache",
]
