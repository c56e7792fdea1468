"""A search space as the unit cube, and as the columns that a Gaussian process sees."""

from typing import Any

import numpy as np

from keras_optkit.tuning.grid import discrete_values, same

# From so many ordered values on, the search for a better point treats them as a range.
_MANY = 8


class UnitSpace:
    """The tunable parameters of a search space, one coordinate in [0, 1] for each.

    A range is spread over its coordinate as its sampling says. Of `n` discrete values each has an
    interval of width `1 / n`. Unordered ones become a column for each value, all with one length
    scale, so that any two are as far apart as any other two. A parameter that is not active is at
    the middle of its coordinate: two points that differ in nothing else are one.

    Args:
        space: List of KerasTuner's `HyperParameter`s, parents before their children.
    """

    def __init__(self, space: list):
        self._all = space
        self.parameters = [p for p in space if type(p).__name__ != "Fixed"]
        self.tables = [discrete_values(parameter) for parameter in self.parameters]
        self._index = {id(p): i for i, p in enumerate(self.parameters)}
        columns = []
        for i, (parameter, table) in enumerate(zip(self.parameters, self.tables, strict=True)):
            columns += [i] * (len(table) if self._unordered(parameter, table) else 1)
        self.groups = np.array(columns, dtype=int)
        self.smooth = np.array([t is None or self._many(i) for i, t in enumerate(self.tables)])

    @property
    def dimension(self) -> int:
        """How many coordinates there are."""
        return len(self.parameters)

    @property
    def finite(self) -> bool:
        """Whether all values are discrete."""
        return all(table is not None for table in self.tables)

    def encode(self, values: dict[str, Any]) -> np.ndarray:
        """Returns the point of a trial.

        Args:
            values: The values of its active parameters; a missing one is taken for inactive.
        """
        point = np.full(self.dimension, 0.5)
        for i, (parameter, table) in enumerate(zip(self.parameters, self.tables, strict=True)):
            active = all(condition.is_active(values) for condition in parameter.conditions)
            if not active or parameter.name not in values:
                continue
            value = values[parameter.name]
            if table is None:
                point[i] = parameter.value_to_prob(value)
            else:
                point[i] = (_position(value, table) + 0.5) / len(table)
        return np.clip(point, 0, 1)

    def decode(self, point: np.ndarray) -> dict[str, Any]:
        """Returns the values of the active parameters at a point.

        Args:
            point: Array of shape `(dimension,)`.
        """
        values: dict[str, Any] = {}
        for parameter in self._all:
            if not all(condition.is_active(values) for condition in parameter.conditions):
                continue
            i = self._index.get(id(parameter))
            values[parameter.name] = parameter.value if i is None else self._value(i, point[i])
        return values

    def snap(self, points: np.ndarray) -> np.ndarray:
        """Returns points with discrete coordinates at a value and inactive ones in the middle.

        Args:
            points: Array of shape `(n, dimension)`.
        """
        points = np.clip(points, 0, 1)
        for i, table in enumerate(self.tables):
            if table is not None:
                points[:, i] = (self._level(i, points[:, i]) + 0.5) / len(table)
        points[~self.active(points)] = 0.5
        return points

    def active(self, points: np.ndarray) -> np.ndarray:
        """Tells which coordinates matter at each point.

        Args:
            points: Array of shape `(n, dimension)`.
        """
        active = np.ones(points.shape, dtype=bool)
        for i, parameter in enumerate(self.parameters):
            for condition in parameter.conditions:
                met = np.zeros(len(points), dtype=bool)
                for parent in self._all:
                    if parent.name == condition.name:
                        met |= self._meets(points, active, parent, condition.values)
                active[:, i] &= met
        return active

    def features(self, points: np.ndarray) -> np.ndarray:
        """Returns the columns for a Gaussian process.

        Args:
            points: Array of shape `(n, dimension)`.

        Returns:
            Array of shape `(n, len(groups))`.
        """
        columns = []
        for i, (parameter, table) in enumerate(zip(self.parameters, self.tables, strict=True)):
            if self._unordered(parameter, table):
                columns.append(np.eye(len(table))[self._level(i, points[:, i])] / np.sqrt(2))
            elif table is not None and len(table) > 1:
                count = len(table)
                columns.append((points[:, i : i + 1] * count - 0.5) / (count - 1))
            else:
                columns.append(points[:, i : i + 1])
        return np.hstack(columns)

    def slopes(self) -> np.ndarray:
        """Returns how fast the first column of each coordinate grows with it."""
        counts = np.array([np.inf if table is None else len(table) for table in self.tables])
        return 1 / (1 - 1 / np.maximum(counts, 2))

    def neighbours(self, point: np.ndarray, rng: np.random.Generator, limit: int) -> np.ndarray:
        """Returns points that differ from one in one discrete coordinate.

        Args:
            point: Array of shape `(dimension,)`.
            rng: Draws some of them where there are too many.
            limit: Integer, how many at most.
        """
        found = []
        for i in np.flatnonzero(~self.smooth):
            count = len(self.tables[i])
            for level in range(count):
                if level != self._level(i, point[i]):
                    other = point.copy()
                    other[i] = (level + 0.5) / count
                    # What this makes active gets a value that is not always the middle.
                    idle = ~self.active(point[None])[0]
                    other[idle] = rng.random(int(idle.sum()))
                    found.append(other)
        if not found:
            return np.empty((0, self.dimension))
        chosen = rng.permutation(len(found))[:limit]
        return self.snap(np.array(found)[chosen])

    def _many(self, i: int) -> bool:
        table = self.tables[i]
        return len(table) >= _MANY and not self._unordered(self.parameters[i], table)

    @staticmethod
    def _unordered(parameter: Any, table: list | None) -> bool:
        # Two values need no more than one column.
        return table is not None and len(table) > 2 and not getattr(parameter, "ordered", True)

    def _level(self, i: int, coordinate: Any) -> Any:
        count = len(self.tables[i])
        return np.minimum((np.asarray(coordinate) * count).astype(int), count - 1)

    def _value(self, i: int, coordinate: float) -> Any:
        if self.tables[i] is None:
            return self.parameters[i].prob_to_value(float(coordinate))
        return self.tables[i][self._level(i, coordinate)]

    def _meets(self, points, active, parent, allowed) -> np.ndarray:
        i = self._index.get(id(parent))
        if i is None:
            return np.full(len(points), parent.value in allowed)
        if self.tables[i] is None:
            values = [self._value(i, coordinate) in allowed for coordinate in points[:, i]]
            return np.array(values, dtype=bool) & active[:, i]
        permitted = np.array([value in allowed for value in self.tables[i]])
        return permitted[self._level(i, points[:, i])] & active[:, i]


def _position(value: Any, table: list) -> int:
    """Returns where a value is in a table, or the nearest number to it."""
    for i, other in enumerate(table):
        if same(value, other):
            return i
    return int(np.argmin([abs(value - other) for other in table]))
