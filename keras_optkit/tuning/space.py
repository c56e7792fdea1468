"""A search space in plain words, and the calls of KerasTuner's `hp` that it stands for."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_optkit.core.messages import did_you_mean

DEFAULT_SPACE = {"learning_rate": True, "schedule": True, "weight_decay": True}

# Where the learning rate of each optimizer is usually found: that of Adam, a decade to either side
# of Keras' default; that of SGD with momentum, some thirty times as high; that of Lion three to ten
# times lower (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023).
LEARNING_RATES = {
    "adam": (1e-4, 1e-2),
    "adamax": (1e-4, 1e-2),
    "adamw": (1e-4, 1e-2),
    "lion": (1e-5, 1e-3),
    "nadam": (1e-4, 1e-2),
    "rmsprop": (1e-4, 1e-2),
    "sgd": (3e-3, 3e-1),
}
AUGMENTATIONS = ("none", "rand_augment", "trivial_augment_wide", "auto_augment", "aug_mix")
WITH_STRENGTH = ("rand_augment", "aug_mix")


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both of them included.

    Args:
        low: Number, the lower end. Two integers make a range of integers.
        high: Number, the upper end.
        sampling: `"linear"` or `"log"`.
        default: Number, where a search begins, or `None` for the lower end.
    """

    low: float
    high: float
    sampling: str = "linear"
    default: float | None = None

    def __str__(self) -> str:
        log = ", on a log scale" if self.sampling == "log" else ""
        return f"{self.low:g} to {self.high:g}{log}"


@dataclass(frozen=True)
class Choices:
    """Some values, of which one is taken.

    Args:
        values: Tuple of at least two strings or of at least two numbers.
    """

    values: tuple

    def __str__(self) -> str:
        return ", ".join(map(_text, self.values))


@dataclass(frozen=True)
class Around:
    """A range about the learning rate that the model is compiled with.

    Args:
        factor: Number above 1, from the rate to either end.
    """

    factor: float

    def about(self, rate: float) -> Range:
        """Returns the range about a rate."""
        low, high = (float(f"{end:.3g}") for end in (rate / self.factor, rate * self.factor))
        return Range(low, high, "log", rate)

    def __str__(self) -> str:
        return f"the model's own / {self.factor:g} to x {self.factor:g}, on a log scale"


@dataclass(frozen=True)
class Parameter:
    """What is known of one thing that can be searched.

    Args:
        usual: A `Range`, `Choices` or `Around`, for `True`.
        sampling: How a range given as `(low, high)` is sampled.
        low: Number, the least value that makes sense, or `None` for strings.
        high: Number, the greatest one.
        open_ends: Which of the two ends is no value itself: `"low"`, `"high"` or `""`.
        words: Tuple of the strings that may be chosen, or `()` for numbers.
        whole: Whether it is an integer.
        parent: The parameter that it hangs on, and the values of that with which it plays a part.
        needs_parent: Whether it plays no part where the parent is not in the space.
    """

    usual: Any
    sampling: str = "linear"
    low: float | None = None
    high: float | None = None
    open_ends: str = ""
    words: tuple[str, ...] = ()
    whole: bool = False
    parent: tuple[str, tuple[str, ...]] | None = None
    needs_parent: bool = False

    @property
    def allowed(self) -> str:
        """The values that it may take, in words."""
        if self.words:
            return "among " + ", ".join(map(repr, self.words))
        what = "integers" if self.whole else "numbers"
        if self.high is None or math.isinf(self.high):
            return f"{what} {'above' if self.open_ends == 'low' else 'from'} {self.low:g}"
        left = "(" if self.open_ends == "low" else "["
        right = ")" if self.open_ends == "high" else "]"
        return f"{what} in {left}{self.low:g}, {self.high:g}{right}"

    def allows(self, value: Any) -> bool:
        """Tells whether it may take a value."""
        if self.words:
            return isinstance(value, str) and value in self.words
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
            return False
        above = value > self.low if self.open_ends == "low" else value >= self.low
        return above and (value < self.high if self.open_ends == "high" else value <= self.high)


# In the order of what hangs on what.
PARAMETERS = {
    "optimizer": Parameter(Choices(("adam", "sgd")), words=tuple(LEARNING_RATES)),
    "learning_rate": Parameter(Around(10), "log", 0, math.inf, "low"),
    "momentum": Parameter(
        Choices((0.8, 0.9, 0.95)), low=0, high=1, open_ends="high", parent=("optimizer", ("sgd",))
    ),
    "schedule": Parameter(
        Choices(("constant", "cosine")), words=("constant", "cosine", "linear", "one_cycle")
    ),
    "warmup": Parameter(
        Range(0.0, 0.2),
        low=0,
        high=1,
        open_ends="high",
        parent=("schedule", ("constant", "cosine", "linear")),
    ),
    "weight_decay": Parameter(Range(1e-5, 1e-1, "log"), "log", 0, math.inf),
    "batch_size": Parameter(Choices((32, 64, 128)), low=1, high=math.inf, whole=True),
    "epochs": Parameter(Range(10, 40), low=1, high=math.inf, whole=True),
    "batch_norm": Parameter(
        Choices(("none", "before_activation", "after_activation")),
        words=("none", "before_activation", "after_activation"),
    ),
    "dropout": Parameter(Range(0.0, 0.5), low=0, high=1, open_ends="high"),
    "augmentation": Parameter(
        Choices(("none", "rand_augment", "trivial_augment_wide")), words=AUGMENTATIONS
    ),
    "augmentation_strength": Parameter(
        Range(1.0, 10.0), low=0, high=10, parent=("augmentation", WITH_STRENGTH), needs_parent=True
    ),
    "mixing": Parameter(Choices(("none", "mixup", "cutmix")), words=("none", "mixup", "cutmix")),
    "mixing_alpha": Parameter(
        Range(0.1, 1.0, "log"),
        "log",
        0.01,
        100,
        parent=("mixing", ("mixup", "cutmix")),
        needs_parent=True,
    ),
    "label_smoothing": Parameter(Range(0.0, 0.2), low=0, high=1, open_ends="high"),
    "ema": Parameter(Choices((0.0, 0.99, 0.999)), low=0, high=1, open_ends="high"),
    "pruning": Parameter(Choices((0.0, 0.5, 0.8)), low=0, high=1, open_ends="high"),
}


class Space:
    """Which parameters are searched, in which ranges, and which are set.

    Args:
        space: A dictionary from the names in `PARAMETERS` to what is searched (see
            `OptkitHyperModel`), a list of names, or `None` for `DEFAULT_SPACE`.

    Attributes:
        searched: Dictionary from a name to a `Range`, `Choices` or `Around`.
        fixed: Dictionary from a name to a value.

    Raises:
        ValueError: If a name is not known, what stands behind it is malformed, or a parameter is
            given without the one that it hangs on.

    Example:

    >>> print(Space({"optimizer": ["adam", "sgd"], "learning_rate": (1e-4, 1e-1), "ema": 0.99}))
    optimizer      adam, sgd
    learning_rate  0.0001 to 0.1, on a log scale
    set: ema=0.99
    """

    def __init__(self, space: Mapping[str, Any] | Sequence[str] | None = None):
        if isinstance(space, str):
            space = [space]
        if isinstance(space, list | tuple | set):
            space = dict.fromkeys(space, True)
        if space is None:
            space = DEFAULT_SPACE
        if not isinstance(space, Mapping):
            raise ValueError(
                "`space` must be a dictionary from names to ranges, a list of names, or None. "
                f"Received: space={space!r}"
            )
        for name in space:
            if name not in PARAMETERS:
                raise ValueError(
                    f"There is nothing called {name!r} to search. "
                    f"{did_you_mean(str(name), PARAMETERS)} Received: space={dict(space)!r}"
                )
        self.searched: dict[str, Range | Choices | Around] = {}
        self.fixed: dict[str, Any] = {}
        for name in PARAMETERS:
            given = space.get(name, False)
            if given is False or given is None:
                continue
            read = _read(name, given)
            if isinstance(read, Range | Choices | Around):
                self.searched[name] = read
            else:
                self.fixed[name] = read
        self._check_parents()
        self._give_each_optimizer_its_rate()

    def _check_parents(self) -> None:
        names = {*self.searched, *self.fixed}
        if "optimizer" in names and "learning_rate" not in names:
            raise ValueError(
                "Each optimizer needs a learning rate of its own. Put 'learning_rate' into the "
                f"space as well, as True or as a range. Received: {self._received()}"
            )
        for name in names:
            parameter = PARAMETERS[name]
            if parameter.parent is None:
                continue
            parent, values = parameter.parent
            if parent in names:
                if not set(self.possible(parent)) & set(values):
                    raise ValueError(
                        f"'{name}' plays a part only with {parent} "
                        f"{' or '.join(map(repr, values))}, which is not in the space. Add it, or "
                        f"leave '{name}' out. Received: {self._received()}"
                    )
            elif parameter.needs_parent:
                raise ValueError(
                    f"'{name}' plays a part only together with '{parent}'. Put that into the space "
                    f"as well. Received: {self._received()}"
                )

    def _give_each_optimizer_its_rate(self) -> None:
        """Makes the usual range of the rate that of the optimizer, or of each of several."""
        self._rates: dict[str, Range] = {}
        kinds = self.possible("optimizer")
        if not kinds or not isinstance(self.searched.get("learning_rate"), Around):
            return
        self._rates = {kind: Range(*LEARNING_RATES[kind], "log") for kind in kinds}
        if len(kinds) == 1:
            self.searched["learning_rate"] = self._rates.pop(kinds[0])

    def possible(self, name: str) -> tuple:
        """Returns the values that a trial may have, of a parameter with a few; else `()`.

        Args:
            name: The name in the space.
        """
        if name in self.fixed:
            return (self.fixed[name],)
        return self.searched[name].values if name in self.searched else ()

    def _received(self) -> str:
        return f"a space of {', '.join([*self.searched, *self.fixed])}"

    @property
    def names(self) -> list[str]:
        """The names of all parameters that are searched, as `hp` has them."""
        return [row[0] for row in self._rows()]

    def without(self, names: Sequence[str]) -> "Space":
        """Returns this space without some names."""
        kept = {k: v for k, v in {**self.searched, **self.fixed}.items() if k not in names}
        new = object.__new__(Space)
        new.searched = {k: v for k, v in self.searched.items() if k in kept}
        new.fixed = {k: v for k, v in self.fixed.items() if k in kept}
        new._check_parents()
        new._rates = self._rates if "optimizer" in kept and "learning_rate" in kept else {}
        return new

    def declare(self, hp: Any, rate: float | None = None) -> dict[str, Any]:
        """Asks `hp` for each parameter, so that it becomes a part of the search.

        Args:
            hp: `keras_tuner.HyperParameters`.
            rate: Float, the learning rate that the model is compiled with, for a range about it.

        Returns:
            A dictionary from the names in the space to the values of this trial, without those that
            play no part in it.

        Raises:
            ValueError: If a range about the model's rate is asked for and `rate` is `None`.
        """
        for name, what, parent in self._rows():
            if isinstance(what, Around):
                if rate is None:
                    raise ValueError(
                        "The usual range of 'learning_rate' lies about the rate that the model is "
                        "compiled with, which is none or a schedule. Give a range, as in "
                        f"'learning_rate': (1e-4, 1e-1). Received: {self._received()}"
                    )
                what = what.about(rate)
            condition = {}
            if parent is not None:
                condition = {"parent_name": parent[0], "parent_values": list(parent[1])}
            if isinstance(what, Choices):
                hp.Choice(name, list(what.values), **condition)
            else:
                whole = isinstance(what.low, int) and isinstance(what.high, int)
                ask = hp.Int if whole else hp.Float
                ask(
                    name,
                    what.low,
                    what.high,
                    sampling=what.sampling,
                    default=what.default,
                    **condition,
                )
        return self.values(hp.values)

    def values(self, searched: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of a trial by the names in the space.

        Args:
            searched: The values of `hp`.
        """
        values = dict(self.fixed)
        for name, _, parent in self._rows():
            if name not in searched:
                continue
            if parent is None or searched.get(parent[0], self.fixed.get(parent[0])) in parent[1]:
                values["learning_rate" if name in self._rate_names else name] = searched[name]
        kept = {}
        for name, value in values.items():
            parent = PARAMETERS[name].parent
            # A value that is set plays a part only with some values of what is searched.
            if parent is None or parent[0] not in values or values[parent[0]] in parent[1]:
                kept[name] = value
        return kept

    @property
    def _rate_names(self) -> dict[str, str]:
        return {f"{kind}_learning_rate": kind for kind in self._rates}

    def _rows(self) -> list[tuple[str, Any, tuple | None]]:
        """What is asked of `hp`: a name, what is searched, and the condition."""
        rows: list[tuple[str, Any, tuple | None]] = []
        for name, what in self.searched.items():
            if name == "learning_rate" and self._rates:
                for rate_name, kind in self._rate_names.items():
                    rows.append((rate_name, self._rates[kind], ("optimizer", (kind,))))
                continue
            parent = PARAMETERS[name].parent
            if parent is not None:
                # Where the parent is not searched, it is settled whether this plays a part.
                active = tuple(v for v in parent[1] if v in self.possible(parent[0]))
                always = set(active) == set(self.possible(parent[0]))
                parent = None if always or parent[0] not in self.searched else (parent[0], active)
            rows.append((name, what, parent))
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        width = max((len(name) for name, _, _ in rows), default=0)
        lines = []
        for name, what, parent in rows:
            only = f" (only with {parent[0]} {' or '.join(parent[1])})" if parent else ""
            lines.append(f"{name:{width}}  {what}{only}")
        if self.fixed:
            lines.append("set: " + ", ".join(f"{k}={_text(v)}" for k, v in self.fixed.items()))
        return "\n".join(lines) or "nothing"


def _read(name: str, given: Any) -> Any:
    """Returns what is searched, or the one value, that the entry of a space stands for."""
    parameter = PARAMETERS[name]
    if given is True:
        return parameter.usual
    if isinstance(given, list):
        values = tuple(dict.fromkeys(given))
        if not values:
            raise ValueError(f"'{name}' has no values to choose from. Received: {name}={given!r}")
        for value in values:
            _check(name, value, given)
        if any(isinstance(v, float) for v in values):
            values = tuple(map(float, values))
        return Choices(values) if len(values) > 1 else values[0]
    if isinstance(given, tuple):
        if parameter.words or len(given) != 2:
            raise ValueError(
                f"'{name}' must be a list of values to choose from"
                + ("" if parameter.words else ", or a range (low, high)")
                + f": {parameter.allowed}. Received: {name}={given!r}"
            )
        for value in given:
            _check(name, value, given)
        low, high = given if parameter.whole else map(float, given)
        if not low < high:
            raise ValueError(
                "The lower end of the range must be below the upper one. "
                f"Received: {name}={given!r}"
            )
        # A range that begins at 0 has no logarithm.
        return Range(low, high, parameter.sampling if low > 0 else "linear")
    _check(name, given, given)
    return given


def _check(name: str, value: Any, given: Any) -> None:
    parameter = PARAMETERS[name]
    if parameter.allows(value):
        return
    hint = f" {did_you_mean(value, parameter.words)}" if isinstance(value, str) else ""
    shapes = (
        "a value or a list of values"
        if parameter.words
        else ("a value, a list of values, or a range (low, high)")
    )
    raise ValueError(
        f"'{name}' must be True for what is usual, False to leave it alone, or {shapes} "
        f"({parameter.allowed}).{hint} Received: {name}={given!r}"
    )


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
