"""A teacher that is the student itself, averaged over its own past."""

import keras
from keras import ops

from keras_optkit.compression.distillation.distillation_loss import check_number
from keras_optkit.core.graph import rebuild


class MovingAverageTeacher:
    """Says to a `Distiller` that the teacher is a moving average of the student: the mean teacher.

    It starts as a copy of the student and follows it in each step, statistics of BatchNorm
    included. It is part of what `save_weights` of the `Distiller` stores, and `distiller.average`
    is the model itself.

    Args:
        momentum: Float from 0 to 1, the share that the average keeps in each step. 0.99 to 0.999
            in the paper.

    Example:

    ```python
    distiller = Distiller(student, MovingAverageTeacher(0.99), HardTargets(), alpha=0.3)
    ```

    Reference:
        Tarvainen and Valpola, "Mean teachers are better role models", 2017.
    """

    def __init__(self, momentum: float = 0.999):
        self.momentum = check_number("momentum", momentum, minimum=0.0, maximum=1.0)

    def copy_of(self, student: keras.Model) -> keras.Model:
        """Returns a model like the student, with weights of its own that do not train.

        Args:
            student: A built Sequential or Functional model.
        """
        average = rebuild(student)
        average.trainable = False
        return average

    def follow(self, student: keras.Model, average: keras.Model) -> None:
        """Moves the average towards the student, in the compiled step.

        Args:
            student: The student.
            average: What `copy_of` returned.
        """
        for own, new in zip(average.weights, student.weights, strict=True):
            if keras.backend.is_float_dtype(own.dtype):
                own.assign(own + (1.0 - self.momentum) * (ops.stop_gradient(new) - own))
            else:
                own.assign(new)
