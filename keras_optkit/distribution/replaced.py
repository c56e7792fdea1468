"""Attributes that are other ones for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

_MISSING = object()


@contextlib.contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Gives an object, class or module other attributes, and puts its own back at the end.

    Args:
        owner: What has the attributes.
        **values: The attributes, by name.

    Raises:
        RuntimeError: If there is no such attribute to replace.

    Example:

    >>> import math
    >>> with replaced(math, pi=3):
    ...     math.pi
    3
    >>> round(math.pi, 2)
    3.14
    """
    for name in values:
        if not hasattr(owner, name):
            raise RuntimeError(
                f"keras_optkit relies on `{getattr(owner, '__name__', type(owner).__name__)}."
                f"{name}`, which Keras {keras.__version__} does not have. Received: {owner!r}"
            )
    # The raw entries: a static method read as an attribute would come back as a plain function.
    before = {name: vars(owner).get(name, _MISSING) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            if value is not _MISSING:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)
