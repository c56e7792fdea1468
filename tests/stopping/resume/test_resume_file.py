import json
import os

import numpy as np
import pytest

from keras_optkit.stopping.resume.file import (
    CorruptFileError,
    NewerFormatError,
    Store,
    decode,
    encode,
)

STATE = {
    "none": None,
    "numbers": [1, -2.5, float("inf"), 2**100, True],
    "text": "ä",
    "arrays": {
        "weights": np.arange(6, dtype="float32").reshape(2, 3),
        "scalar": np.array(3, "int64"),
        "empty": np.zeros((0, 4)),
        "mask": np.array([True, False]),
    },
    "looks like ours": {"$array": 0},
    "nested": [{"a": [np.float64(0.1)]}],
}


def _same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray):
        equal = one.dtype == other.dtype and one.shape == other.shape
        return equal and one.tobytes() == other.tobytes()
    return one == other


def test_a_state_comes_back_as_it_was():
    assert _same(STATE, decode(encode(STATE)))


def test_types_that_numpy_does_not_have_come_back():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    back = decode(encode({"weights": np.array([1.5, 2.0], bfloat16)}))["weights"]
    assert back.dtype == bfloat16
    assert back.tolist() == [1.5, 2.0]


def test_arrays_that_come_back_can_be_written_to():
    decode(encode(STATE))["arrays"]["weights"][0, 0] = 1


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array([None]), {"set": {1}}])
def test_other_objects_are_refused_with_their_place(value):
    with pytest.raises(TypeError, match=r"Received: state\.callbacks\.Mine"):
        encode({"callbacks": {"Mine": value}})


def test_nothing_that_is_torn_is_read():
    content = encode(STATE)
    for length in range(0, len(content), 10):
        with pytest.raises(CorruptFileError):
            decode(content[:length])


def test_nothing_that_was_changed_is_read():
    content = encode(STATE)
    for place in range(0, len(content), 10):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises((CorruptFileError, NewerFormatError)):
            decode(bytes(changed))


def test_a_file_of_something_else_is_told_from_ours():
    with pytest.raises(CorruptFileError, match="not a file that `Resume` wrote"):
        decode(b"PK\x03\x04" + b"\0" * 100)


def test_two_generations_are_kept(tmp_path):
    store = Store(tmp_path, 0)
    for number in range(4):
        store.write({"number": number})
    assert sorted(os.listdir(tmp_path)) == ["fit0-00000002.state", "fit0-00000003.state"]
    assert store.read() == ({"number": 3}, [])


def test_the_generation_before_stands_in_for_a_torn_one(tmp_path):
    store = Store(tmp_path, 0)
    for number in range(2):
        store.write({"number": number, "array": np.arange(100)})
    newest = tmp_path / "fit0-00000001.state"
    content = newest.read_bytes()
    for length in range(0, len(content), 10):
        newest.write_bytes(content[:length])
        state, problems = store.read()
        assert state["number"] == 0
        assert problems[0].startswith("fit0-00000001.state is left aside: ")
    newest.write_bytes(content)
    assert store.read()[0]["number"] == 1


def test_a_generation_is_never_written_over(tmp_path):
    store = Store(tmp_path, 0)
    store.write({"number": 0})
    (tmp_path / "fit0-00000001.state").write_bytes(b"torn")
    store.write({"number": 2})
    assert store.read()[0] == {"number": 2}


def test_fits_do_not_mix(tmp_path):
    Store(tmp_path, 0).write({"number": 0})
    assert Store(tmp_path, 1).read() == (None, [])
    Store(tmp_path, 1).write({"number": 1})
    assert Store(tmp_path, 0).read()[0] == {"number": 0}


def test_a_newer_format_is_refused(tmp_path):
    content = encode(STATE).replace(b"Resume 1\n", b"Resume 2\n", 1)
    (tmp_path / "fit0-00000000.state").write_bytes(content)
    with pytest.raises(NewerFormatError, match="format 2, .* reads formats up to 1"):
        Store(tmp_path, 0).read()


def test_the_directory_is_tried_first(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match="there is a file of this name"):
        Store(file, 0).prepare()
    Store(tmp_path / "a" / "b", 0).prepare()
    assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a directory that none can write")
def test_a_directory_that_cannot_be_written_to_is_refused():
    from pathlib import Path

    with pytest.raises(ValueError, match=r"can be written to: .*Received: directory='/proc/self'"):
        Store(Path("/proc/self"), 0).prepare()


def test_the_index_is_readable_without_this_package():
    content = encode(STATE)
    line, rest = content.split(b"\n", 1)
    assert line == b"keras_optkit.Resume 1"
    length = int.from_bytes(rest[:8], "little")
    assert json.loads(rest[8 : 8 + length])["arrays"][0] == ["float32", [2, 3]]
