import numpy as np
import pytest

from keras_optkit.core.duration import Run, parse, to_steps

RUN = Run(epochs=20, steps_per_epoch=50)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("10ep", 500),
        ("0.5ep", 25),
        (" 3 ep ", 150),
        ("500step", 500),
        (500, 500),
        (np.int64(7), 7),
        (0.3, 300),
        (1.0, 1000),
        (0, 0),
        (0.0, 0),
    ],
)
def test_steps_of_each_notation(duration, steps):
    assert to_steps(duration, RUN) == steps


def test_one_and_one_point_zero_differ():
    assert to_steps(1, RUN) == 1
    assert to_steps(1.0, RUN) == 1000


def test_fractional_updates_per_epoch_are_rounded_once():
    # 10 batches at an accumulation of 4: 2.5 updates in an epoch.
    assert to_steps("3ep", Run(epochs=4, steps_per_epoch=2.5)) == 8


@pytest.mark.parametrize("bad", ["10", "ten ep", "-1ep", "2 days", "1.5step", -1, 1.5, -0.1, None])
def test_malformed_duration_names_the_argument_and_the_value(bad):
    with pytest.raises(ValueError, match="`warmup` must be .*Received: .*") as error:
        parse(bad, "warmup")
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize("bad", [True, float("nan"), float("inf"), [1], {}])
def test_other_types_are_refused(bad):
    with pytest.raises(ValueError, match="Received"):
        parse(bad)


def test_without_a_run_only_steps_are_known():
    assert to_steps("7step", None) == 7
    with pytest.raises(ValueError, match="callbacks.LearningRate"):
        to_steps("7ep", None)


def test_unknown_length_of_data_is_told_with_the_remedy():
    with pytest.raises(ValueError, match="steps_per_epoch="):
        to_steps(0.5, Run(epochs=3, steps_per_epoch=None))
