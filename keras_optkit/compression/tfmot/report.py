"""What is said of a model that the bridge cannot take, before any work."""

from collections.abc import Sequence
from typing import Any, NoReturn


def refuse(
    what: str, problems: Sequence[tuple[str, str, str]], model: Any, hint: str = ""
) -> NoReturn:
    """Raises a `ValueError` that lists everything that stands in the way.

    Args:
        what: What the listed things have in common, as in "without a counterpart in tf_keras".
        problems: Tuples of a name, a type and a reason.
        model: What was received.
        hint: A sentence that says what to do.
    """
    lines = [f"  {name} ({kind}): {reason}" for name, kind, reason in dict.fromkeys(problems)]
    count = len(lines)
    listed = "\n".join(lines)
    raise ValueError(
        f"The model holds {count} {'thing' if count == 1 else 'things'} {what}:\n{listed}\n"
        f"{hint + ' ' if hint else ''}Received: model={model!r}"
    )


def misfit(layer: Any, where: str, error: Exception) -> str:
    """Returns a message about a call that one Keras allows and the other one does not.

    Args:
        layer: The layer or operation that is called.
        where: The Keras that does not allow it.
        error: What was raised there.
    """
    return (
        f"'{layer.name}' ({type(layer).__name__}) cannot be called in {where} as it is called in "
        f"the model: {error} Received: {layer!r}"
    )
