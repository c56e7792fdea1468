"""The one place from which this package writes a line to the user's terminal."""

import sys


def say(line: str) -> None:
    """Writes one line to standard output, on a line of its own behind a progress bar.

    Args:
        line: String, without a line end.
    """
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()
