"""Rows by their numbers, from tensors and from files."""

import numpy as np
import pytest
import tensorflow as tf

from keras_optkit.compression.distillation import rows


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_are_those_of_the_arrays(tmp_path, monkeypatch, in_memory):
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "float16", (9, 2))
    file[:] = rng.normal(size=(9, 2))
    arrays = [rng.normal(size=(9, 3, 1)), file, np.arange(9, dtype="uint8")]
    size = sum(array.nbytes for array in arrays)
    monkeypatch.setattr(rows, "IN_MEMORY", size if in_memory else size - 1)
    for number in ([7, 0, 7], 8):
        # Made where a pipeline is traced, as `TeacherCache` does.
        read = tf.function(lambda index: rows.reader(arrays)(index))
        traced = read.get_concrete_function(tf.TensorSpec(np.shape(number), "int64"))
        assert any("PyFunc" in op.type for op in traced.graph.get_operations()) != in_memory
        for value, array in zip(traced(tf.constant(number, "int64")), arrays, strict=True):
            np.testing.assert_array_equal(value, array[number])
            assert value.dtype == array.dtype
        for shape, array in zip(traced.output_shapes, arrays, strict=True):
            assert shape == array[number].shape


def test_texts():
    read = rows.reader([np.array(["b", "a"], "object")])
    dataset = tf.data.Dataset.range(2).map(lambda index: read(index)[0])
    assert list(dataset.as_numpy_iterator()) == [b"b", b"a"]
