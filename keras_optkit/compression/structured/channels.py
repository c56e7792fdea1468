"""Channels that can only leave a model together."""

from collections.abc import Iterator

import numpy as np


class Channels:
    """Sets of channels, each known by an integer label.

    Two channels are tied where one cannot be removed without the other: they are added to each
    other, or one is a copy of the other in another place. A channel that is frozen stays, and so
    does all that is tied to it.

    Example:

    >>> channels = Channels()
    >>> a, b = channels.new(2), channels.new(2)
    >>> channels.tie(a, b)
    >>> channels.roots(b).tolist()
    [0, 1]
    """

    def __init__(self):
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> np.ndarray:
        """Returns the labels of channels that are tied to nothing yet.

        Args:
            count: Integer, how many.

        Returns:
            An integer array of shape (count,).
        """
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """Returns, for each label, the one label that stands for its set."""
        return np.array([self._root(label) for label in labels.tolist()], dtype="int64")

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Ties the channels of two arrays of one shape, place by place."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = sorted((self._root(a), self._root(b)))
            if a != b:
                self._parents[b] = a
                reason = self._reasons.pop(b, None)
                if reason is not None:
                    self._reasons.setdefault(a, reason)

    def freeze(self, labels: np.ndarray, reason: str) -> None:
        """Keeps channels for good.

        Args:
            labels: Integer array.
            reason: Why they stay, in words.
        """
        for label in set(labels.tolist()):
            self._reasons.setdefault(self._root(label), reason)

    def reason(self, label: int) -> str | None:
        """Returns why a channel stays, or `None` if it may leave."""
        return self._reasons.get(self._root(label))

    def frozen(self) -> Iterator[int]:
        """Yields the roots of all sets that stay."""
        yield from self._reasons

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label
