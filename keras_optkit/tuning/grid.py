"""The points of a search space, in the order in which a grid search visits them."""

from collections.abc import Iterator
from typing import Any


def discrete_values(parameter: Any) -> list | None:
    """Returns all values of a parameter in order, or `None` where they are a range without a step.

    Args:
        parameter: KerasTuner's `HyperParameter`.
    """
    if getattr(parameter, "step", 0) is None:
        return None
    if getattr(parameter, "sampling", None) == "linear":
        # By KerasTuner's count, 0 to 0.5 in steps of 0.1 ends at 0.4.
        count = int((parameter.max_value - parameter.min_value) / parameter.step + 1e-9) + 1
        return [parameter.min_value + i * parameter.step for i in range(count)]
    # KerasTuner's `Int` gives floats where its step multiplies.
    whole = type(parameter).__name__ == "Int"
    return [round(value) if whole else value for value in parameter.values]


def grid_values(parameter: Any) -> list:
    """Returns the values that a grid has of a parameter: its default, then the others in order.

    A range without a step gives ten values, spread as its sampling says, and the default.

    Args:
        parameter: KerasTuner's `HyperParameter`.
    """
    values = discrete_values(parameter)
    if values is None:
        # KerasTuner holds these in a set, which has no order.
        values = sorted(parameter.values)
    default = parameter.default
    return [default, *(value for value in values if value != default)]


def combinations(space: list, start: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Yields every combination of values, the last parameter changing fastest.

    Args:
        space: List of KerasTuner's `HyperParameter`s, parents before their children.
        start: Values that are settled already.

    Yields:
        Dictionaries from the names of the active parameters to their values.
    """
    values = dict(start or {})
    if not space:
        yield values
        return
    parameter, *rest = space
    active = all(condition.is_active(values) for condition in parameter.conditions)
    if not active or parameter.name in values:
        yield from combinations(rest, values)
        return
    for value in grid_values(parameter):
        yield from combinations(rest, {**values, parameter.name: value})


def covers(tried: dict[str, Any], point: dict[str, Any]) -> bool:
    """Tells whether a trial with these values is a trial of this point.

    A trial that ran before a parameter was known says nothing of it, and covers all its values.

    Args:
        tried: The values of a trial.
        point: A combination.

    Example:

    >>> covers({"units": 8}, {"units": 8, "rate": 0.1})
    True
    """
    return all(same(tried[name], value) for name, value in point.items() if name in tried)


def same(a: Any, b: Any) -> bool:
    """Tells whether two values are equal, or as near as float32 brings them.

    Between a chief and its workers KerasTuner's messages round floats to 32 bits.

    Args:
        a: A value.
        b: A value.
    """
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return a == b
