"""Checks of arguments that several rooms share."""

import numbers


def check_count(name: str, value: int) -> int:
    """Returns a count as a Python integer, or raises if it is not a whole number >= 0.

    Args:
        name: The argument's name, for the message.
        value: What was given.

    Raises:
        ValueError: If it is not an integer >= 0.

    Example:

    >>> check_count("patience", 3)
    3
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 0:
        raise ValueError(f"`{name}` must be an integer >= 0. Received: {name}={value!r}")
    return int(value)
