"""The processes that train one model together, as every room sees them."""

import contextlib
from collections.abc import Callable, Iterator


class Processes:
    """This process and those that train with it: one alone, unless a subclass says otherwise.

    What is told between them are bytes, and every process has to come to the same calls in the
    same order.

    Example:

    >>> alone = Processes()
    >>> alone.count, alone.is_chief, alone.any(False)
    (1, True, False)
    >>> alone.from_chief(lambda: b"what the chief found")
    b'what the chief found'
    """

    count = 1
    index = 0

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.index == 0

    def from_chief(self, make: Callable[[], bytes]) -> bytes:
        """Returns, in every process, what a function returned in the chief.

        Args:
            make: A function without arguments, which is called in the chief only. What it raises
                is raised there as it is, and as a `RuntimeError` with its message in the others.
        """
        return make()

    def gather(self, own: bytes) -> list[bytes] | None:
        """Returns what each process has, by its index, in the chief, and `None` in the others."""
        return [own]

    def any(self, flag: bool) -> bool:
        """Returns, in every process, whether the flag is set in one of them."""
        found = self.gather(b"1" if flag else b"")
        return bool(self.from_chief(lambda: b"1" if any(found) else b""))


_OPEN: list[Processes] = []


def processes() -> Processes:
    """Returns the processes that the training that runs is shared by."""
    return _OPEN[-1] if _OPEN else Processes()


@contextlib.contextmanager
def shared_by(group: Processes) -> Iterator[None]:
    """Says that the training inside is shared by several processes.

    Args:
        group: The processes.
    """
    _OPEN.append(group)
    try:
        yield
    finally:
        _OPEN.pop()
