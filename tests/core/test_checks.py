import numpy as np
import pytest

from keras_optkit.core.checks import check_count


def test_whole_numbers_pass_as_python_integers():
    assert [check_count("n", value) for value in (0, 7, np.int64(3))] == [0, 7, 3]
    assert type(check_count("n", np.int64(3))) is int


@pytest.mark.parametrize("value", [-1, 1.5, 2.0, True, "3", None, float("nan"), float("inf")])
def test_what_is_no_count_is_told(value):
    with pytest.raises(ValueError, match="`n` must be an integer >= 0. Received: n="):
        check_count("n", value)
