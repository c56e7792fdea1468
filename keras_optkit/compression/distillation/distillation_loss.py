"""The base of the losses that compare a student with its teacher."""

import math
import numbers
from typing import Any

import keras


class DistillationLoss(keras.losses.Loss):
    """What a student is charged for differing from its teacher, a part of `Distiller`'s loss.

    It is a Keras loss of the teacher's values (`y_true`) and the student's (`y_pred`), with one
    number for each sample, so sample weights, masks and several replicas count as in any other
    loss. A loss of your own is a subclass with a `call`.

    Args:
        weight: Float >= 0, multiplies this loss before all are summed.
        output: String or integer, the student's output that is meant, by name or position. `None`
            takes each of them and sums. Not used by losses of features.
        name: String, the name of the loss in the logs.

    Example:

    >>> class Absolute(DistillationLoss):
    ...     def call(self, y_true, y_pred):
    ...         return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)
    >>> float(Absolute()(np.zeros((2, 3)), np.ones((2, 3))))
    1.0
    """

    # Whether `y_true` is a tuple of the teacher's values and of the labels.
    needs_labels = False
    # Whether logits that all grow by one number mean the same. Only then can probabilities be
    # turned into logits for it.
    shift_invariant = True
    # Whether it is of classes: outputs of one column are then two of them, the first with logit 0.
    # Otherwise that column is a number like any other.
    compares_classes = True

    def __init__(
        self,
        weight: float = 1.0,
        output: str | int | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name or _snake_case(type(self).__name__))
        self.weight = check_number("weight", weight, minimum=0.0)
        self.output = output

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each sample.

        Args:
            y_true: The teacher's values, float tensor of shape `(batch, ..., classes)`; with
                `needs_labels` a tuple of these and of the labels.
            y_pred: The student's values, of the same shape.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight, "output": self.output, "name": self.name}


def check_number(
    name: str, value: float, minimum: float, maximum: float = math.inf, above: bool = False
) -> float:
    """Returns a number as a float, or raises if it is out of its range.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        minimum: The smallest value that is allowed.
        maximum: The largest value that is allowed.
        above: Whether it must be larger than the minimum.

    Raises:
        ValueError: If it is no finite number in the range.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not minimum <= value <= maximum:
        valid = False
    else:
        valid = value > minimum or not above
    if not valid:
        limit = f"a number {'>' if above else '>='} {minimum:g}"
        if maximum < math.inf:
            limit = f"a number from {minimum:g} to {maximum:g}"
        raise ValueError(f"`{name}` must be {limit}. Received: {name}={value!r}")
    return float(value)


def _snake_case(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
