"""Cuts of a row of loads, against trying all cuts."""

import itertools

import numpy as np
import pytest

from keras_optkit.distribution.contiguous_parts import contiguous_parts

# No backend has a part in it.
pytestmark = pytest.mark.backends("tensorflow")


def largest(loads, parts):
    return max(sum(load for load, p in zip(loads, parts, strict=True) if p == q) for q in parts)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_no_cut_is_better(parts):
    rng = np.random.default_rng(parts)
    for _ in range(200):
        count = int(rng.integers(1, 8))
        loads = rng.integers(0, 9, size=count).tolist()
        found = contiguous_parts(loads, parts)
        assert found == sorted(found)
        assert set(found) == set(range(min(parts, count)))
        cuts = itertools.combinations_with_replacement(range(count + 1), parts - 1)
        every = [zip((0, *cut), (*cut, count), strict=True) for cut in cuts]
        assert largest(loads, found) == min(
            max(sum(loads[begin:end]) for begin, end in each) for each in every
        )


def test_loads_of_layers():
    assert contiguous_parts([5, 1, 1, 1, 4], 2) == [0, 0, 1, 1, 1]
    assert contiguous_parts([0, 0, 0], 3) == [0, 1, 2]
    assert contiguous_parts([], 2) == []
