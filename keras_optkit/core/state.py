"""The protocol by which a callback's state outlives its process."""

from typing import Any


class Stateful:
    """A callback whose state can be taken, stored, and given back before a later `fit`.

    `get_state()` may be called between two batches or epochs. `set_state(state)` is called before
    `fit`; the state is taken up when training begins, in place of a fresh start. A state is a
    dictionary with string keys of None, booleans, numbers, strings, NumPy arrays, and lists and
    dictionaries of them.
    """

    _pending_state: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """The name under which the state is stored; two callbacks of one class need two."""
        return type(self).__name__

    def get_state(self) -> dict[str, Any]:
        """Returns the state as a dictionary."""
        raise NotImplementedError

    def set_state(self, state: dict[str, Any]) -> None:
        """Stores a state that the next `fit` starts from.

        Args:
            state: A dictionary that `get_state` returned.
        """
        self._pending_state = dict(state)

    def _take_pending_state(self) -> dict[str, Any] | None:
        state, self._pending_state = self._pending_state, None
        return state
