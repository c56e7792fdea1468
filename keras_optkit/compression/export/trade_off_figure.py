"""The picture of a comparison: accuracy against size and against latency, a point for each file."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_optkit.compression.export.measure import Accuracy

# Okabe and Ito's colors, which the color-blind can tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
# Where a name stands beside its point, in points of 1/72 inch: the first place that is free.
_BESIDE = [
    (side * 12, sign * height)
    for height in range(8, 170, 20)
    for sign in (1, -1)
    for side in (1, -1)
]


@dataclass(frozen=True)
class Point:
    """One file in the picture.

    Args:
        model: String, the name of its model.
        kind: String, the name of its quantization.
        bytes: Integer, its size.
        median_ms: Float, its median latency, in milliseconds.
        accuracy: Its `Accuracy`.
    """

    model: str
    kind: str
    bytes: int
    median_ms: float
    accuracy: Accuracy


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Returns which points no other one beats: none is as cheap and as good, and better in one.

    Args:
        costs: Numbers, the smaller the better.
        values: Numbers, the larger the better, as many.

    Returns:
        The points' indices, the cheapest first.

    Example:

    >>> pareto_front([3, 1, 2, 4], [0.9, 0.7, 0.6, 0.9])
    [1, 0]
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
    front: list[int] = []
    for i in order:
        twin = front and (costs[i], values[i]) == (costs[front[-1]], values[front[-1]])
        if not front or values[i] > values[front[-1]] or twin:
            front.append(i)
    return front


def draw(points: Sequence[Point], batch_size: int, threads: int) -> Any:
    """Draws the two panels.

    Args:
        points: The files, at least one; those of one model have one color, those of one kind one
            mark.
        batch_size: Integer, samples in the run whose latency is shown.
        threads: Integer, the interpreter's threads in it.

    Returns:
        A `matplotlib.figure.Figure`, which belongs to no window.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    divisor, unit = (1e6, "MB") if max(p.bytes for p in points) >= 1e6 else (1e3, "kB")
    samples = "1 sample" if batch_size == 1 else f"{batch_size} samples"
    factor, time_unit = (1, "ms") if max(p.median_ms for p in points) >= 0.1 else (1e3, "µs")
    run = f"{samples}, {threads} thread{'s' * (threads != 1)}"
    panels = [
        ([p.bytes / divisor for p in points], f"size of the .tflite file, {unit}"),
        ([factor * p.median_ms for p in points], f"median latency, {time_unit} ({run})"),
    ]
    for axis, (costs, label) in zip(axes, panels, strict=True):
        _draw_panel(axis, points, costs)
        axis.set_xlabel(label, fontsize=17)
        axis.tick_params(labelsize=15)
        axis.grid(alpha=0.3)
    total = points[0].accuracy.samples
    axes[0].set_ylabel(f"accuracy on {total:,} samples, %", fontsize=17)
    figure.suptitle("Files side by side; bars: 95 % confidence", fontsize=18)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, fontsize=14)
    # The layout must be final before names can be kept apart.
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for axis, (costs, _) in zip(axes, panels, strict=True):
        _name_points(axis, points, costs)
    return figure


def _draw_panel(axis, points: Sequence[Point], costs: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    colors, markers = _styles(points)
    accuracies = [100 * p.accuracy.value for p in points]
    front = pareto_front(costs, accuracies)
    axis.plot(
        [costs[i] for i in front],
        [accuracies[i] for i in front],
        **{"color": "0.45", "linestyle": "--", "linewidth": 2, "zorder": 1},
        **{"marker": "o", "markersize": 22, "markerfacecolor": "none", "markeredgewidth": 2},
        label="Pareto front",
    )
    for point, cost, accuracy in zip(points, costs, accuracies, strict=True):
        low, high = 100 * point.accuracy.low, 100 * point.accuracy.high
        axis.errorbar(
            cost,
            accuracy,
            yerr=[[max(accuracy - low, 0.0)], [max(high - accuracy, 0.0)]],
            fmt=markers[point.kind],
            color=colors[point.model],
            **{"markersize": 11, "linewidth": 2, "capsize": 5},
        )
    for model, color in colors.items():
        axis.plot([], [], linewidth=4, color=color, label=model)
    for kind, marker in markers.items():
        axis.plot([], [], marker, markersize=11, color="0.3", label=kind)
    if max(costs) > 10 * min(costs) > 0:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    # Room for the names.
    axis.margins(x=0.2, y=0.12)


def _styles(points: Sequence[Point]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the color of each model and the mark of each kind."""
    models, kinds = dict.fromkeys(p.model for p in points), dict.fromkeys(p.kind for p in points)
    return (
        dict(zip(models, itertools.cycle(_COLORS), strict=False)),
        dict(zip(kinds, itertools.cycle(_MARKERS), strict=False)),
    )


def _name_points(axis, points: Sequence[Point], costs: Sequence[float]) -> None:
    """Writes each point's name beside it, where it hides no point and no other name."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer = axis.figure.canvas.get_renderer()
    colors, _ = _styles(points)
    heights = [100 * p.accuracy.value for p in points]
    centres = axis.transData.transform(list(zip(costs, heights, strict=True)))
    taken = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in centres]
    panel = axis.get_window_extent(renderer)
    for cost, height, point in zip(costs, heights, points, strict=True):
        found = []
        for dx, dy in _BESIDE:
            text = axis.annotate(
                f"{point.model}, {point.kind}",
                (cost, height),
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right",
                va="center",
                **{"fontsize": 14, "color": colors[point.model]},
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
                arrowprops={"arrowstyle": "-", "color": "0.6"} if abs(dy) > 20 else None,
            )
            # Of the text alone, without the line that leads to it.
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)
            clashes = sum(map(box.overlaps, taken))
            clashes += not (panel.x0 < box.x0 and box.x1 < panel.x1)
            clashes += not (panel.y0 < box.y0 and box.y1 < panel.y1)
            text.remove()
            found.append((clashes, len(found), text, box))
            if clashes == 0:
                break
        *_, text, box = min(found, key=lambda entry: entry[:2])
        axis.add_artist(text)
        taken.append(box)
