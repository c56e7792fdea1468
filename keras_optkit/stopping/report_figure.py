"""The picture of a training run: one panel for each quantity, with the events marked."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

# Okabe and Ito's colors, which the color-blind can tell apart.
_TRAINING, _VALIDATION = "#0072B2", "#D55E00"
_EVENTS = {
    "best": ("#009E73", "-"),
    "rate cut": ("#CC79A7", ":"),
    "stopped": ("#000000", "--"),
    "resumed": ("#E69F00", "-."),
}
_UNITS = {"learning_rate": "learning rate", "seconds": "seconds per epoch"}
_LAST = ("learning_rate", "sparsity", "seconds")


def panels(columns: dict[str, Sequence[float | None]]) -> list[tuple[str, list[str]]]:
    """Returns the panels of a picture: a title, and the names of the curves in it.

    A metric and its validation share one. The loss comes first; rate, sparsity and time last.

    Args:
        columns: From the key in the logs to the values of all epochs.

    Example:

    >>> panels({"accuracy": [], "seconds": [], "loss": [], "val_loss": []})
    [('loss', ['loss', 'val_loss']), ('accuracy', ['accuracy']), ('seconds', ['seconds'])]
    """
    names = dict.fromkeys(name.removeprefix("val_") for name in columns)
    first = [name for name in names if name not in _LAST]
    first.sort(key=lambda name: (name != "loss", not name.endswith("loss")))
    order = [*first, *(name for name in _LAST if name in names)]
    return [(name, [n for n in (name, f"val_{name}") if n in columns]) for name in order]


def draw(
    epochs: Sequence[int],
    columns: dict[str, Sequence[float | None]],
    events: Sequence[dict[str, Any]],
    title: str,
):
    """Draws the curves of a run.

    Args:
        epochs: Integers, counted from 1.
        columns: From the key in the logs to a value for each epoch; `None` where there is none.
        events: Dictionaries with `"kind"` and `"epoch"` (from 1, may lie between two).
        title: String, the line above the panels.

    Returns:
        A `matplotlib.figure.Figure`, which belongs to no window.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layout = panels(columns)
    width = 2 if len(layout) > 1 else 1
    height = math.ceil(len(layout) / width)
    figure = Figure(figsize=(7 * width, 3.6 * height + 1.2), layout="constrained")
    axes = list(figure.subplots(height, width, squeeze=False).flat)
    for axis, (name, curves) in zip(axes, layout, strict=False):
        for curve in curves:
            _plot(axis, epochs, columns[curve], curve)
        _mark(axis, events)
        axis.set_title(_UNITS.get(name, name), fontsize=16)
        axis.set_xlabel("epoch", fontsize=14)
        axis.tick_params(labelsize=13)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _scale(axis, [columns[curve] for curve in curves], name)
        if len(epochs) == 1:
            axis.set_xlim(epochs[0] - 1, epochs[0] + 1)
    for axis in axes[len(layout) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=16)
    handles = {label: handle for axis in axes for handle, label in _legend(axis)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=14
    )
    return figure


def _plot(axis, epochs, values, name) -> None:
    validation = name.startswith("val_")
    color, label = (_VALIDATION, "validation") if validation else (_TRAINING, "training")
    label = "_" if name in _LAST else label
    shown = [math.nan if value is None else value for value in values]
    known = [value for value in shown if math.isfinite(value)]
    # A line joins the epochs that were validated, and breaks off at what is not finite.
    pairs = [(e, v) for e, v, given in zip(epochs, shown, values, strict=True) if given is not None]
    style = {"color": color, "linewidth": 2.5 if len(known) < 300 else 1.5, "label": label}
    # A point with no neighbour would not be seen in a line.
    marker = "o" if len(known) <= 40 else ""
    axis.plot(*zip(*pairs, strict=True) if pairs else ([], []), marker=marker, **style)
    bad = [epoch for epoch, value in pairs if not math.isfinite(value)]
    if bad:
        # At the lower edge of the panel, whatever its scale.
        axis.plot(
            bad,
            [0.09 if validation else 0.03] * len(bad),
            linestyle="",
            marker="x",
            markersize=9,
            markeredgewidth=2.5,
            color=color,
            transform=axis.get_xaxis_transform(),
            clip_on=False,
            label=f"{label}: not finite",
        )


def _mark(axis, events) -> None:
    for event in events:
        color, line = _EVENTS[event["kind"]]
        # A resume is ahead of the epoch that it goes on with.
        place = event["epoch"] - (0.5 if event["kind"] == "resumed" else 0)
        axis.axvline(place, color=color, linestyle=line, linewidth=2, label=event["kind"], zorder=1)


def _scale(axis, curves, name) -> None:
    """A logarithmic axis where positive values span more than two decades."""
    values = [v for curve in curves for v in curve if v is not None and math.isfinite(v)]
    if name in ("sparsity", "seconds"):
        top = axis.get_ylim()[1]
        axis.set_ylim(-0.04 * top, 1.04 * top)
    elif values and min(values) > 0 and max(values) > 100 * min(values):
        axis.set_yscale("log")


def _legend(axis) -> Iterator[tuple[Any, str]]:
    yield from zip(*axis.get_legend_handles_labels(), strict=True)
