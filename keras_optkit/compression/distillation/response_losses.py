"""The losses that compare outputs."""

from typing import Any

from keras import ops

from keras_optkit.compression.distillation import response
from keras_optkit.compression.distillation.distillation_loss import DistillationLoss, check_number
from keras_optkit.core.serialization import register


class _Softened(DistillationLoss):
    def __init__(
        self,
        temperature: float = 4.0,
        weight: float = 1.0,
        output: str | int | None = None,
        name: str | None = None,
    ):
        super().__init__(weight=weight, output=output, name=name)
        self.temperature = check_number("temperature", temperature, minimum=0.0, above=True)

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature, **super().get_config()}


@register
class SoftTargets(_Softened):
    """The divergence from the teacher's softened probabilities: knowledge distillation.

    It is multiplied by the temperature squared, so that its gradients keep their size.

    Args:
        temperature: Float > 0. Higher values show more of what the teacher thinks of the wrong
            classes. 4 is usual for image classifiers.
        weight: Float >= 0, multiplies this loss before all are summed.
        output: String or integer, the student's output that is meant, by name or position. `None`
            takes each of them and sums.
        name: String, the name of the loss in the logs.

    Example:

    >>> loss = SoftTargets(temperature=2.0)
    >>> float(loss(np.array([[1.0, 3.0]]), np.array([[1.0, 3.0]])))
    0.0

    Reference:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """

    def call(self, y_true, y_pred):
        return response.soft_targets(y_true, y_pred, self.temperature)


@register
class JensenShannon(_Softened):
    """The Jensen-Shannon divergence of the softened probabilities, symmetric and bounded.

    Args:
        temperature: Float > 0.
        weight: Float >= 0, multiplies this loss before all are summed.
        output: String or integer, the student's output that is meant, by name or position. `None`
            takes each of them and sums.
        name: String, the name of the loss in the logs.

    Example:

    >>> loss = JensenShannon(temperature=1.0)
    >>> round(float(loss(np.array([[0.0, 99.0]]), np.array([[99.0, 0.0]]))), 3)
    0.693

    Reference:
        Lin, "Divergence measures based on the Shannon entropy", 1991.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        weight: float = 1.0,
        output: str | int | None = None,
        name: str | None = None,
    ):
        super().__init__(temperature, weight, output, name)

    def call(self, y_true, y_pred):
        return response.jensen_shannon(y_true, y_pred, self.temperature)


@register
class DecoupledTargets(_Softened):
    """Decoupled knowledge distillation (DKD): the true class and the others weighed apart.

    It needs labels: class ids of shape `(batch, ...)` or `(batch, ..., 1)`, or vectors of shape
    `(batch, ..., classes)`, of which the largest entry counts.

    Args:
        temperature: Float > 0.
        target_weight: Float >= 0, for how sure the student is of the true class; alpha in the
            paper.
        other_weight: Float >= 0, for how it spreads the rest over the others; beta in the paper,
            which has 8 for CIFAR-100 and 0.5 for ImageNet.
        weight: Float >= 0, multiplies this loss before all are summed.
        output: String or integer, the student's output that is meant, by name or position. `None`
            takes each of them and sums.
        name: String, the name of the loss in the logs.

    Example:

    >>> loss = DecoupledTargets(other_weight=0.5)
    >>> logits = np.array([[1.0, 3.0, 0.0]])
    >>> float(loss((logits, np.array([1])), logits))
    0.0

    Reference:
        Zhao, Cui, Song, Qiu and Liang, "Decoupled knowledge distillation", 2022.
    """

    needs_labels = True

    def __init__(
        self,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        other_weight: float = 8.0,
        weight: float = 1.0,
        output: str | int | None = None,
        name: str | None = None,
    ):
        super().__init__(temperature, weight, output, name)
        self.target_weight = check_number("target_weight", target_weight, minimum=0.0)
        self.other_weight = check_number("other_weight", other_weight, minimum=0.0)

    def call(self, y_true, y_pred):
        teacher, labels = y_true
        target = one_hot(labels, y_pred)
        return response.decoupled(
            teacher, y_pred, target, self.temperature, self.target_weight, self.other_weight
        )

    def get_config(self) -> dict[str, Any]:
        own = {"target_weight": self.target_weight, "other_weight": self.other_weight}
        return {**super().get_config(), **own}


@register
class SquaredLogits(DistillationLoss):
    """The mean squared difference of the logits, or of the numbers that a regression returns.

    Both models must end in logits, not in a softmax. A sigmoid of one column is turned into one.

    Args:
        weight: Float >= 0, multiplies this loss before all are summed.
        output: String or integer, the student's output that is meant, by name or position. `None`
            takes each of them and sums.
        name: String, the name of the loss in the logs.

    Example:

    >>> float(SquaredLogits()(np.array([[0.0, 2.0]]), np.array([[0.0, 4.0]])))
    2.0

    Reference:
        Ba and Caruana, "Do deep nets really need to be deep?", 2014.
    """

    shift_invariant = False
    compares_classes = False

    def call(self, y_true, y_pred):
        return response.squared_error(y_true, y_pred)


@register
class HardTargets(DistillationLoss):
    """The cross entropy with the class that the teacher decides for.

    As in DeiT, where it has an output of its own: name that one in `output`.

    Args:
        weight: Float >= 0, multiplies this loss before all are summed.
        output: String or integer, the student's output that is meant, by name or position. `None`
            takes each of them and sums.
        name: String, the name of the loss in the logs.

    Example:

    >>> round(float(HardTargets()(np.array([[0.0, 2.0]]), np.array([[0.0, 0.0]]))), 3)
    0.693

    Reference:
        Touvron et al., "Training data-efficient image transformers and distillation through
        attention", 2021.
    """

    def call(self, y_true, y_pred):
        return response.hard_labels(y_true, y_pred)


def one_hot(labels: Any, logits: Any) -> Any:
    """Returns labels as one hot vectors of the shape of the logits.

    Args:
        labels: Class ids of shape `(...)` or `(..., 1)`, or vectors of shape `(..., classes)`.
        logits: Tensor of shape `(..., classes)`.

    Raises:
        ValueError: If the shape of the labels is none of these.
    """
    rank, classes = len(logits.shape), logits.shape[-1]
    if len(labels.shape) == rank and labels.shape[-1] == classes:
        ids = ops.argmax(labels, axis=-1)
    elif len(labels.shape) == rank and labels.shape[-1] == 1:
        ids = ops.squeeze(labels, axis=-1)
    elif len(labels.shape) == rank - 1:
        ids = labels
    else:
        raise ValueError(
            f"Labels for logits of shape {tuple(logits.shape)} must be class ids, or vectors of "
            f"{classes} numbers. Received: labels of shape {tuple(labels.shape)}"
        )
    return ops.one_hot(ops.cast(ids, "int32"), classes, dtype=logits.dtype)
