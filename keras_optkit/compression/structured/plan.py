"""Which channels leave: groups of them, how large a model is without some, and what to choose."""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np

from keras_optkit.compression.structured.trace import Trace, Weight


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Sets of channels that run through the same variables, one of which can replace another.

    Args:
        roots: Integer array, the label of each set.
        names: The layers that make these channels.
    """

    roots: np.ndarray
    names: tuple[str, ...]


class Plan:
    """The channels of a model that may leave, and what the model costs without some of them.

    Args:
        trace: The trace of the model.
    """

    def __init__(self, trace: Trace):
        self.trace = trace
        # By variable and axis, which sets the numbers along the axis belong to.
        self._weights = [
            (weight, {axis: trace.channels.roots(a) for axis, a in weight.labels.items()})
            for weight in trace.weights.values()
        ]
        self.size = 1 + max((int(r.max()) for r in self._all_roots() if r.size), default=0)
        self.groups = self._find_groups()
        traced = sum(math.prod(weight.variable.shape) for weight, _ in self._weights)
        self._rest = trace.model.count_params() - traced

    def channels(self, gone: np.ndarray) -> int:
        """Returns the number of sets of channels that may leave and have not.

        Args:
            gone: Boolean array of shape (size,), true for the sets that leave.
        """
        return sum(int(np.count_nonzero(~gone[group.roots])) for group in self.groups)

    def parameters(self, gone: np.ndarray) -> int:
        """Returns the number of parameters without some channels.

        Args:
            gone: Boolean array of shape (size,), true for the sets that leave.
        """
        return self._rest + sum(self._numbers(w, roots, gone) for w, roots in self._weights)

    def flops(self, gone: np.ndarray) -> int:
        """Returns the floating-point operations of one prediction in the layers that are followed.

        A multiplication and the addition behind it are two. Only what is done with kernels counts.

        Args:
            gone: Boolean array of shape (size,), true for the sets that leave.
        """
        return 2 * sum(w.work * self._numbers(w, roots, gone) for w, roots in self._weights)

    def scores(self, score: Callable[[np.ndarray, Weight], np.ndarray]) -> np.ndarray:
        """Returns how much each set matters: the mean over the variables that make its channels.

        Args:
            score: A function of a kernel, as an array of shape (channels, n), and of its `Weight`,
                that returns an array of shape (channels,). It is brought to a mean of 1 for each
                variable, as variables differ in scale.

        Returns:
            Float64 array of shape (size,), 0 where nothing is made.

        Raises:
            ValueError: If `score` returns another shape, or what is not finite.
        """
        total, count = np.zeros(self.size), np.zeros(self.size)
        for weight, roots in self._weights:
            if weight.makes is None:
                continue
            kernel = keras.ops.convert_to_numpy(weight.variable).astype("float64")
            kernel = np.moveaxis(kernel, weight.makes, 0)
            values = np.asarray(score(kernel.reshape(len(kernel), -1), weight), "float64")
            if values.shape != (len(kernel),) or not np.isfinite(values).all():
                raise ValueError(
                    "A criterion must give one finite score for each channel. Those of "
                    f"'{self._layer_of(weight)}' are not: its weights, the gradients of the loss "
                    "on `data`, or a function that was given do not make them. "
                    f"Received: scores of shape {values.shape} for {len(kernel)} channels, "
                    f"{np.count_nonzero(~np.isfinite(values))} of them not finite"
                )
            mean = values.mean()
            np.add.at(total, roots[weight.makes], values / mean if mean > 0 else values)
            np.add.at(count, roots[weight.makes], 1)
        return total / np.maximum(count, 1)

    def made(self) -> dict[str, np.ndarray]:
        """Returns, for each layer that makes channels, the set that each of them belongs to."""
        return {
            self._layer_of(weight): roots[weight.makes]
            for weight, roots in self._weights
            if weight.makes is not None
        }

    def _layer_of(self, weight: Weight) -> str:
        path = weight.variable.path.rsplit("/", 1)[0]
        return path.removeprefix(f"{self.trace.model.name}/")

    def _numbers(self, weight, roots: dict[int, np.ndarray], gone: np.ndarray) -> int:
        shape = list(weight.variable.shape)
        for axis, labels in roots.items():
            shape[axis] = int(np.count_nonzero(~gone[labels]))
        return math.prod(shape)

    def _all_roots(self):
        return (roots for _, axes in self._weights for roots in axes.values())

    def _find_groups(self) -> list[Group]:
        places: dict[int, set] = {}
        makers: dict[int, list[str]] = {}
        for i, (weight, axes) in enumerate(self._weights):
            for axis, roots in axes.items():
                for root in np.unique(roots).tolist():
                    places.setdefault(root, set()).add((i, axis))
                    if axis == weight.makes:
                        makers.setdefault(root, []).append(self._layer_of(weight))
        frozen = set(self.trace.channels.frozen())
        found: dict[frozenset, list[int]] = {}
        for root in sorted(makers):
            if root not in frozen:
                found.setdefault(frozenset(places[root]), []).append(root)
        return [
            Group(np.array(roots), tuple(dict.fromkeys(makers[roots[0]])))
            for roots in found.values()
        ]


def choose_uniform(groups: list[Group], scores: np.ndarray, share: float, multiple: int) -> list:
    """Returns, for each group, the sets that leave if each group loses the same share of them.

    Args:
        groups: The groups.
        scores: Array, how much each set matters.
        share: Float in [0, 1].
        multiple: Integer, what the number of sets that stay is a multiple of.
    """
    return [
        _lowest(group, scores, _kept(len(group.roots), (1 - share) * len(group.roots), multiple))
        for group in groups
    ]


def choose_global(
    groups: list[Group], scores: np.ndarray, share: float, multiple: int, least: float
) -> list:
    """Returns, for each group, the sets that leave if those leave that matter least of all.

    Args:
        groups: The groups.
        scores: Array, how much each set matters; of one scale for all groups.
        share: Float in [0, 1], of all sets.
        multiple: Integer, what the number of sets that stay is a multiple of.
        least: Float in (0, 1], the share of each group that stays whatever it scores.
    """
    values = np.sort(np.concatenate([scores[group.roots] for group in groups]))
    count = math.floor(share * len(values))
    limit = values[count] if count < len(values) else math.inf
    chosen = []
    for group in groups:
        total = len(group.roots)
        stay = max(np.count_nonzero(scores[group.roots] >= limit), least * total)
        chosen.append(_lowest(group, scores, _kept(total, stay, multiple)))
    return chosen


def _kept(total: int, wanted: float, multiple: int) -> int:
    """Returns how many sets stay: at least one, and a multiple where there are that many."""
    kept = multiple * max(math.ceil(round(wanted / multiple, 9)), 1)
    return min(kept, total)


def _lowest(group: Group, scores: np.ndarray, kept: int) -> np.ndarray:
    order = np.argsort(scores[group.roots], kind="stable")
    return group.roots[order[: len(order) - kept]]
