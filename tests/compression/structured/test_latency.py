import types

import keras
import numpy as np
import pytest
from keras import layers

from keras_optkit.compression.structured.latency import TOLERANCE, LatencyChange, search
from keras_optkit.pruning import prune_channels


def measured(curve, noise=0.0, seed=0):
    """A measurement that is a curve of the share, with noise, and what was asked of it."""
    rng = np.random.default_rng(seed)
    asked = []

    def measure(share):
        asked.append(share)
        ratio = curve(share) + noise * rng.normal()
        return types.SimpleNamespace(ratio=ratio, noise=2 * noise)

    return measure, asked


CURVES = {
    "square": lambda share: (1 - share) ** 2,
    "line": lambda share: 1 - 0.9 * share,
    "flat, then steep": lambda share: 1 - share**4,
    "steps": lambda share: 0.1 + 0.9 * (1 - np.floor(8 * share) / 8) ** 2,
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("guess", [0.1, 0.5, 0.99])
def test_the_search_comes_near_in_few_measurements(curve, target, guess):
    measure, asked = measured(CURVES[curve], noise=0.01)
    share = search(measure, target, guess)
    assert len(asked) <= 6
    assert share in asked
    room = 0.12 if curve == "steps" else 0.03
    assert target - TOLERANCE * target - room < CURVES[curve](share)
    assert CURVES[curve](share) <= target * (1 + TOLERANCE) + 0.03


def test_a_good_guess_is_measured_once():
    measure, asked = measured(CURVES["square"])
    assert search(measure, 0.25, 0.5) == 0.5
    assert asked == [0.5]


def test_a_target_that_cannot_be_reached():
    measure, asked = measured(lambda share: 1 - 0.5 * share)
    with pytest.raises(ValueError, match=r"0\.5 of the latency .* when all channels leave"):
        search(measure, 0.3, 0.6)
    assert asked == [0.6, 1.0]
    # What noise may have kept above it is not refused.
    measure, asked = measured(lambda share: 1 - 0.5 * share, noise=0.05)
    assert search(measure, 0.47, 1.0) == 1.0


def test_a_change_is_summarised():
    rng = np.random.default_rng(0)
    before = 2.0 + rng.normal(0, 0.1, 400)
    change = LatencyChange.of(before, 0.5 * before)
    assert (change.ratio, change.noise, change.runs) == (pytest.approx(0.5), 0, 400)
    assert change.before_ms == pytest.approx(2, abs=0.05)
    noisy = LatencyChange.of(before, 1.0 + rng.normal(0, 0.3, 400))
    assert 0.005 < noisy.noise < 0.1
    assert abs(noisy.ratio - 0.5) < 2 * noisy.noise


@pytest.mark.backends("tensorflow")
def test_a_model_is_timed_on_litert():
    x = keras.Input((None, None, 3))
    y = layers.Conv2D(32, 3, activation="relu")(x)
    y = layers.Conv2D(64, 3, activation="relu")(y)
    model = keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))
    example = np.zeros((1, 32, 32, 3), "float32")
    small, report = prune_channels(
        model, 0.5, of="latency", example=example, multiple_of=8, return_report=True
    )
    assert small.count_params() < model.count_params()
    timed = report.latency
    assert min(timed.before_ms, timed.after_ms) > 0
    assert timed.runs >= 40
    assert "ms on LiteRT" in str(report)
    assert report.to_dict()["latency"]["runs"] == timed.runs


@pytest.mark.backends("tensorflow")
def test_what_cannot_be_converted_is_told():
    @keras.saving.register_keras_serializable("tests")
    class Odd(layers.Layer):
        def call(self, x):
            return keras.ops.lgamma(x) if hasattr(keras.ops, "lgamma") else keras.ops.erfinv(x)

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([keras.Input((8,)), layers.Dense(9), layers.Dense(5), Odd()])
    with pytest.raises(ValueError, match="LiteRT|convert"):
        prune_channels(model, 0.5, of="latency")
