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
    *((12, 8), (12, -18), (-12, 8), (-12, -18), (12, 26), (12, -36), (-12, 26), (-12, -36)),
    *((0, 48), (0, -58), (40, 48), (40, -58), (-40, 48), (-40, -58), (0, 70), (0, -80)),
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

    figure = Figure(figsize=(15, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    divisor, unit = (1e6, "MB") if max(p.bytes for p in points) >= 1e6 else (1e3, "kB")
    samples = "1 sample" if batch_size == 1 else f"{batch_size} samples"
    panels = [
        ([p.bytes / divisor for p in points], f"size of the .tflite file, {unit}"),
        ([p.median_ms for p in points], f"median latency, ms ({samples}, {threads} thread(s))"),
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
    figure.legend(handles, labels, loc="outside lower center", fontsize=15)
    # The layout must be final before names can be kept apart.
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for axis, (costs, _) in zip(axes, panels, strict=True):
        _name_points(axis, points, costs)
    return figure


def _draw_panel(axis, points: Sequence[Point], costs: Sequence[float]) -> None:
    models = list(dict.fromkeys(p.model for p in points))
    kinds = list(dict.fromkeys(p.kind for p in points))
    accuracies = [100 * p.accuracy.value for p in points]
    front = pareto_front(costs, accuracies)
    axis.plot(
        [costs[i] for i in front],
        [accuracies[i] for i in front],
        **{"color": "0.45", "linestyle": "--", "linewidth": 2, "zorder": 1},
        **{"marker": "o", "markersize": 22, "markerfacecolor": "none", "markeredgewidth": 2},
        label="Pareto front: no other file is as cheap and as accurate",
    )
    for point, cost, accuracy in zip(points, costs, accuracies, strict=True):
        low, high = 100 * point.accuracy.low, 100 * point.accuracy.high
        axis.errorbar(
            cost,
            accuracy,
            yerr=[[max(accuracy - low, 0.0)], [max(high - accuracy, 0.0)]],
            fmt=_MARKERS[kinds.index(point.kind) % len(_MARKERS)],
            color=_COLORS[models.index(point.model) % len(_COLORS)],
            **{"markersize": 11, "linewidth": 2, "capsize": 5},
        )
    if max(costs) > 10 * min(costs) > 0:
        axis.set_xscale("log")
    # Room for the names.
    axis.margins(x=0.2, y=0.12)


def _name_points(axis, points: Sequence[Point], costs: Sequence[float]) -> None:
    from matplotlib.transforms import Bbox

    renderer = axis.figure.canvas.get_renderer()
    heights = [100 * p.accuracy.value for p in points]
    places = axis.transData.transform(list(zip(costs, heights, strict=True)))
    taken = [Bbox.from_bounds(x - 10, y - 10, 20, 20) for x, y in places]
    inside = axis.get_window_extent(renderer)
    for i, point in enumerate(points):
        best, fewest = None, None
        for dx, dy in _BESIDE:
            align = "left" if dx > 0 else "right" if dx < 0 else "center"
            text = axis.annotate(
                f"{point.model}, {point.kind}",
                (costs[i], heights[i]),
                xytext=(dx, dy),
                textcoords="offset points",
                fontsize=14,
                ha=align,
                color=_COLORS[
                    list(dict.fromkeys(p.model for p in points)).index(point.model) % len(_COLORS)
                ],
                arrowprops={"arrowstyle": "-", "color": "0.6"} if abs(dy) > 20 else None,
            )
            box = text.get_window_extent(renderer)
            clashes = sum(box.overlaps(other) for other in itertools.chain(taken))
            clashes += 0 if inside.containsx(box.x0) and inside.containsx(box.x1) else 2
            clashes += 0 if inside.containsy(box.y0) and inside.containsy(box.y1) else 2
            if fewest is None or clashes < fewest:
                if best is not None:
                    best.remove()
                best, fewest = text, clashes
            else:
                text.remove()
            if fewest == 0:
                break
        taken.append(best.get_window_extent(renderer))
