import numpy as np
import pytest

from keras_optkit.tuning.search_data import split_data

X, Y = np.arange(40.0).reshape(20, 2), np.repeat(np.arange(4), 5)


def test_arrays_are_split_at_random_and_the_same_each_time():
    one, two = split_data((X, Y), 0.25, seed=3), split_data((X, Y), 0.25, seed=3)
    held_out = one["validation_data"]
    assert len(one["x"]) == 15 and len(held_out[0]) == 5
    np.testing.assert_array_equal(one["x"], two["x"])
    assert sorted([*one["x"][:, 0], *held_out[0][:, 0]]) == sorted(X[:, 0])
    # Labels follow, and the labels, which are sorted, are not all of the last class.
    np.testing.assert_array_equal(one["y"], Y[(one["x"][:, 0] / 2).astype(int)])
    assert len(set(held_out[1])) > 1
    assert not np.array_equal(split_data((X, Y), 0.25, seed=4)["x"], one["x"])


def test_weights_and_several_inputs():
    found = split_data(({"a": X, "b": Y}, Y, X[:, 0]), 0.25)
    np.testing.assert_array_equal(found["x"]["a"][:, 0], found["sample_weight"])
    assert [len(part) for part in found["validation_data"][1:]] == [5, 5]


def test_pairs_and_datasets():
    found = split_data(((X, Y), (X[:3], Y[:3])))
    assert found["x"] is X and found["y"] is Y and len(found["validation_data"][0]) == 3
    tf = pytest.importorskip("tensorflow")
    train = tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)
    found = split_data((train, train.take(1)))
    assert found["x"] is train and found["shuffle"] is False
    assert split_data((train, (X, Y)))["validation_data"][1] is Y
    with pytest.raises(ValueError, match=r"\(train, validation\).*Received: data of type"):
        split_data(train)


@pytest.mark.parametrize(
    ("data", "held_out", "message"),
    [
        (X, 0.2, "data of type ndarray"),
        ((X,), 0.2, r"arrays \(x, y\)"),
        ((X, Y[:3]), 0.2, r"of one length. Received: lengths \[3, 20\]"),
        (((X, Y), (X, Y[:3])), 0.2, r"lengths \[3, 20\]"),
        ((X, Y), 1.0, "held_out=1.0"),
        ((X, Y), 20, "held_out=20"),
        ((X[:1], Y[:1]), 0.2, "Nothing is left to train on"),
    ],
)
def test_bad_input(data, held_out, message):
    with pytest.raises(ValueError, match=message):
        split_data(data, held_out)
