"""Words that several messages share."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, available: Iterable[str], prefix: str = "") -> str:
    """Returns a sentence that names the nearest of `available`, or lists them all.

    Args:
        name: String, what was asked for.
        available: Strings, what there is.
        prefix: String, put in front of each name that the sentence shows.

    Returns:
        String: "Did you mean 'val_accuracy'?" where something is near, else "Available: ...".

    Example:

    >>> did_you_mean("val_acuracy", ["loss", "val_accuracy"])
    "Did you mean 'val_accuracy'?"
    """
    available = list(available)
    near = difflib.get_close_matches(name, available, n=3, cutoff=0.6)
    near = near or [other for other in available if name and other.startswith(name)][:3]
    if near:
        return f"Did you mean {' or '.join(repr(prefix + other) for other in near)}?"
    return f"Available: {', '.join(repr(prefix + other) for other in available) or 'nothing'}."
