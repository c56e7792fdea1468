"""The outputs of a model by name, and what belongs to one of them."""

from typing import Any

import keras

from keras_optkit.core.messages import did_you_mean


def named(model: keras.Model, values: Any) -> dict[str, Any]:
    """Returns what a model returns, output by output.

    Args:
        model: The model.
        values: What it returned, or its symbolic outputs.

    Returns:
        A dictionary in the order of `keras.tree.flatten(values)`. The names are the keys where the
        model returns a dictionary, those of its output layers where it has a graph, or else
        "0", "1" and so on.
    """
    flat = keras.tree.flatten(values)
    if isinstance(values, dict):
        names = keras.tree.flatten({key: key for key in values})
    else:
        ends = getattr(model, "outputs", None) or []
        names = [tensor._keras_history.operation.name for tensor in ends]
    if len(set(names)) != len(flat):
        names = [str(i) for i in range(len(flat))]
    return dict(zip(names, flat, strict=True))


def resolve(output: str | int | None, names: list[str], whose: str) -> list[str]:
    """Returns the names of the outputs that are meant.

    Args:
        output: A name, a position, or `None` for all of them.
        names: The names that there are.
        whose: String, whose outputs they are, for the message.

    Raises:
        ValueError: If there is no such output.
    """
    if output is None:
        return list(names)
    if isinstance(output, int) and -len(names) <= output < len(names):
        return [names[output]]
    if output in names:
        return [output]
    raise ValueError(
        f"{whose} has no output {output!r}. {did_you_mean(str(output), names)} "
        f"Received: output={output!r}"
    )


def counterpart(name: str, names: list[str], others: list[str]) -> str:
    """Returns the teacher's output that belongs to an output of the student.

    It is the only one, that of the same name, or that at the same position.

    Args:
        name: The student's output.
        names: All of the student's outputs.
        others: All of the teacher's outputs.

    Raises:
        ValueError: If neither is there.
    """
    if len(others) == 1:
        return others[0]
    if name in others:
        return name
    if len(names) == len(others):
        return others[names.index(name)]
    raise ValueError(
        f"Which of the teacher's outputs belongs to the student's '{name}' can't be told: give "
        f"them the same names. Received: student's outputs {names}, teacher's outputs {others}"
    )


def part_of(structure: Any, name: str, names: list[str]) -> Any:
    """Returns what belongs to one output in labels or sample weights.

    Args:
        structure: One tensor, `None`, or a dictionary or list with an entry for each output.
        name: The output.
        names: All outputs, in order.
    """
    if isinstance(structure, dict):
        return structure.get(name)
    if isinstance(structure, (list, tuple)):
        if len(structure) == 1:
            return structure[0]
        return structure[names.index(name)] if len(structure) == len(names) else None
    return structure
