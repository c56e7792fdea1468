"""A teacher whose answers come with the data."""

from typing import Any

from keras_optkit.compression.distillation.teacher_cache import INPUTS, OUTPUTS, TeacherCache


class CachedTeacher:
    """What a `TeacherCache` is to a `Distiller`: a teacher without models.

    Args:
        cache: The cache.
        layers: Names of the layers that losses want to see.

    Raises:
        ValueError: If there are any: a cache holds outputs.
    """

    reader = None
    models = ()
    variables = ()

    def __init__(self, cache: TeacherCache, layers: list[str]):
        if layers:
            raise ValueError(
                "A `TeacherCache` holds what the teacher returns, not what its layers do. Pass "
                "the model itself, or leave the losses of features out. "
                f"Received: losses of the layers {layers}"
            )
        self.kind = cache.teacher_output
        self.outputs = cache.outputs

    def __call__(self, x: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Returns the outputs that came with a batch.

        Args:
            x: The inputs of a batch, as `TeacherCache.dataset` gives them.
        """
        if not _joined(x):
            raise ValueError(
                "The teacher is a `TeacherCache`, and this data does not hold its outputs. Fit on "
                f"`cache.dataset(batch_size)`. Received: x={x!r}"
            )
        return list(x[OUTPUTS]), {}


def student_inputs(x: Any) -> Any:
    """Returns the student's inputs of a batch that may hold the teacher's outputs too.

    Args:
        x: The inputs of a batch.
    """
    return x[INPUTS] if _joined(x) else x


def _joined(x: Any) -> bool:
    return isinstance(x, dict) and set(x) == {INPUTS, OUTPUTS}
