"""The Pareto front against its definition, and what the picture holds."""

import numpy as np
import pytest

from keras_optkit.compression.export.measure import Accuracy
from keras_optkit.compression.export.trade_off_figure import Point, draw, pareto_front


@pytest.mark.parametrize("seed", range(20))
def test_front_is_what_no_other_point_beats(seed):
    rng = np.random.default_rng(seed)
    # Few values, so that there are ties.
    costs, values = rng.integers(1, 6, 12), rng.integers(1, 6, 12)

    def beats(i, j):
        better = costs[i] < costs[j] or values[i] > values[j]
        return costs[i] <= costs[j] and values[i] >= values[j] and better

    want = [j for j in range(12) if not any(beats(i, j) for i in range(12))]
    front = pareto_front(costs, values)
    assert sorted(front) == want
    assert sorted(costs[front]) == list(costs[front])


@pytest.fixture
def points():
    accuracies = [Accuracy(v, 200, v - 0.03, v + 0.02) for v in (0.95, 0.94, 0.90, 0.90)]
    names = [("wide", "float32"), ("wide", "int8"), ("narrow", "float32"), ("narrow", "int8")]
    sizes, times = [400_000, 110_000, 60_000, 20_000], [0.4, 0.2, 0.2, 0.21]
    return [
        Point(*name, size, time, accuracy)
        for name, size, time, accuracy in zip(names, sizes, times, accuracies, strict=True)
    ]


def test_points_names_front_and_units(points):
    figure = draw(points, batch_size=1, threads=2)
    left, right = figure.axes
    assert left.get_xlabel() == "size of the .tflite file, kB"
    assert right.get_xlabel() == "median latency, ms (1 sample, 2 threads)"
    assert left.get_ylabel() == "accuracy on 200 samples, %"
    for axis, front in ((left, [20, 110, 400]), (right, [0.2, 0.4])):
        line = next(line for line in axis.lines if line.get_label() == "Pareto front")
        assert list(line.get_xdata()) == pytest.approx(front)
        names = [text.get_text() for text in axis.texts]
        assert sorted(names) == sorted(f"{p.model}, {p.kind}" for p in points)
        bars = [container.lines[2][0].get_segments()[0] for container in axis.containers]
        assert [list(bar[:, 1]) for bar in bars] == [
            pytest.approx([100 * p.accuracy.low, 100 * p.accuracy.high]) for p in points
        ]
    assert left.get_xscale() == "log"
    assert right.get_xscale() == "linear"


def test_names_keep_clear_of_each_other(points):
    from matplotlib.text import Text

    figure = draw(points, batch_size=1, threads=1)
    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        for text in axis.texts:
            text.update_positions(renderer)
        boxes = [Text.get_window_extent(text, renderer) for text in axis.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_units_of_small_and_large_files(points):
    large = [Point("a", "int8", 3_000_000, 0.002, points[0].accuracy)]
    left, right = draw(large, 1, 1).axes
    assert left.get_xlabel().endswith("MB")
    assert "µs (1 sample, 1 thread)" in right.get_xlabel()
