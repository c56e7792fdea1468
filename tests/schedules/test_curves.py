import math

import keras
import numpy as np
import pytest

from keras_optkit.schedules.curves import completed, power


@pytest.mark.parametrize(
    ("base", "last"), [(1.0, 4000), (0.99999, 8e6), (0.98, 8000), (0.97, 8000), (0.5, 8000)]
)
def test_power_keeps_its_digits(base, last):
    exponents = np.rint(np.linspace(0, last, 4001)).astype("float32")
    expected = np.array([math.pow(base, int(e)) for e in exponents])
    ours = keras.ops.convert_to_numpy(power(base, exponents))
    normal = expected > 1e-37
    np.testing.assert_allclose(ours[normal], expected[normal], rtol=1e-6)
    assert (ours[~normal] <= 1.01e-37).all()


@pytest.mark.parametrize("every", [1, 3, 7, 49, 1000])
def test_periods_end_at_exactly_their_step(every):
    ends = every * np.arange(1, 4001)
    for shift in (-1, 0):
        ours = keras.ops.convert_to_numpy(completed(ends + shift, every))
        np.testing.assert_array_equal(ours, (ends + shift) // every)
