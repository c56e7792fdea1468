"""The losses that compare features inside the models."""

from typing import Any

from keras_optkit.compression.distillation import feature
from keras_optkit.compression.distillation.distillation_loss import DistillationLoss
from keras_optkit.core.serialization import register


class FeatureLoss(DistillationLoss):
    """The base of losses that compare the outputs of two layers, named for each model.

    Args:
        student_layer: String, the name of a layer of the student; of a nested model's too.
        teacher_layer: String, the name of a layer of the teacher. `None` for the same name.
        weight: Float >= 0, multiplies this loss before all are summed.
        name: String, the name of the loss in the logs.
    """

    # Whether the student's features are brought to the teacher's width by learned weights, and
    # whether the teacher's height and width are brought to the student's.
    projects = False
    resizes = False

    def __init__(
        self,
        student_layer: str,
        teacher_layer: str | None = None,
        weight: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(weight=weight, name=name)
        for argument, value in (("student_layer", student_layer), ("teacher_layer", teacher_layer)):
            if not isinstance(value, str) and (argument, value) != ("teacher_layer", None):
                raise ValueError(
                    f"`{argument}` must be the name of a layer. Received: {argument}={value!r}"
                )
        self.student_layer = student_layer
        self.teacher_layer = student_layer if teacher_layer is None else teacher_layer

    def get_config(self) -> dict[str, Any]:
        return {
            "student_layer": self.student_layer,
            "teacher_layer": self.teacher_layer,
            "weight": self.weight,
            "name": self.name,
        }


@register
class FeatureHint(FeatureLoss):
    """The mean squared difference of two features, one inside each model.

    Where the student has fewer or more channels, a linear projection of its features is trained
    with it, and thrown away after. Where images have another size inside the teacher, its
    features are resized.

    Args:
        student_layer: String, the name of a layer of the student; of a nested model's too.
        teacher_layer: String, the name of a layer of the teacher. `None` for the same name.
        weight: Float >= 0, multiplies this loss before all are summed.
        name: String, the name of the loss in the logs.

    Example:

    ```python
    losses = [SoftTargets(), FeatureHint("conv3", "block4_out", weight=0.1)]
    ```

    Reference:
        Romero et al., "FitNets: hints for thin deep nets", 2015.
    """

    projects = True
    resizes = True

    def call(self, y_true, y_pred):
        return feature.hint(y_true, y_pred)


@register
class AttentionTransfer(FeatureLoss):
    """The squared distance of two maps of where the activations are; the widths may differ.

    Args:
        student_layer: String, the name of a layer of the student whose output has the shape
            `(batch, ..., channels)`; of a nested model's too.
        teacher_layer: String, the name of a layer of the teacher. `None` for the same name.
        weight: Float >= 0, multiplies this loss before all are summed.
        name: String, the name of the loss in the logs.

    Example:

    ```python
    losses = [SoftTargets(), AttentionTransfer("conv3", "block4_out", weight=10.0)]
    ```

    Reference:
        Zagoruyko and Komodakis, "Paying more attention to attention", 2017.
    """

    resizes = True

    def call(self, y_true, y_pred):
        return feature.attention(y_true, y_pred)


@register
class RelationalDistance(FeatureLoss):
    """How differently the distances within a batch are spread; any two shapes will do.

    Args:
        student_layer: String, the name of a layer of the student; of a nested model's too.
        teacher_layer: String, the name of a layer of the teacher. `None` for the same name.
        weight: Float >= 0, multiplies this loss before all are summed. The paper has 25.
        name: String, the name of the loss in the logs.

    Example:

    ```python
    losses = [RelationalDistance("pool", weight=25.0), RelationalAngle("pool", weight=50.0)]
    ```

    Reference:
        Park, Kim, Lu and Cho, "Relational knowledge distillation", 2019.
    """

    def call(self, y_true, y_pred):
        return feature.relational_distance(y_true, y_pred)


@register
class RelationalAngle(FeatureLoss):
    """How differently the angles within a batch are spread; any two shapes will do.

    Memory and time grow with the cube of the batch.

    Args:
        student_layer: String, the name of a layer of the student; of a nested model's too.
        teacher_layer: String, the name of a layer of the teacher. `None` for the same name.
        weight: Float >= 0, multiplies this loss before all are summed. The paper has 50.
        name: String, the name of the loss in the logs.

    Example:

    ```python
    losses = [RelationalDistance("pool", weight=25.0), RelationalAngle("pool", weight=50.0)]
    ```

    Reference:
        Park, Kim, Lu and Cho, "Relational knowledge distillation", 2019.
    """

    def call(self, y_true, y_pred):
        return feature.relational_angle(y_true, y_pred)
