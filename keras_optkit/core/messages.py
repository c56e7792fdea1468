"""Words that several messages share."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """Returns a sentence that names the nearest of `available`, or lists them all.

    Args:
        name: String, what was asked for.
        available: Strings, what there is.

    Returns:
        String: "Did you mean 'val_accuracy'?" where something is near, else "Available: ...".

    Example:

    >>> did_you_mean("val_acuracy", ["loss", "val_accuracy"])
    "Did you mean 'val_accuracy'?"
    """
    available = list(available)
    near = difflib.get_close_matches(name, available, n=3, cutoff=0.55)
    if near:
        return f"Did you mean {' or '.join(repr(n) for n in near)}?"
    return f"Available: {', '.join(repr(n) for n in available) or 'nothing'}."
