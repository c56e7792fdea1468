"""The one place from which this package writes a line to the user's terminal."""

import sys

from keras_optkit.core.processes import processes


def say(line: str) -> None:
    """Writes one line to standard output, on a line of its own behind a progress bar.

    Of several processes that train together, only the chief does.

    Args:
        line: String, without a line end.
    """
    if processes().is_chief:
        sys.stdout.write(f"\n{line}\n")
        sys.stdout.flush()
