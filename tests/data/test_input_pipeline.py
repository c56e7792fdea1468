import numpy as np
import pytest

from keras_optkit.data import input_pipeline


def test_images_that_do_not_fit_in_memory_are_shuffled_within_a_limit(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(input_pipeline, "MEMORY_LIMIT", 10 * 64)
    numbers = tf.data.Dataset.range(1000)
    near = input_pipeline.shuffle(numbers, 1000, 64, seed=0).as_numpy_iterator()
    assert max(next(near) for _ in range(100)) < 110
    everywhere = input_pipeline.shuffle(numbers, 1000, None, seed=0).as_numpy_iterator()
    assert max(next(everywhere) for _ in range(100)) > 800
    assert len(input_pipeline.shuffle(numbers, 1000, 10**9, seed=0)) == 1000


def test_images_of_other_types_keep_their_range():
    import tensorflow as tf

    image = np.linspace(-1, 1, 4 * 6 * 2, dtype="float32").reshape(4, 6, 2)
    resized = input_pipeline.resize(tf.constant(image), (2, 3))
    assert resized.dtype == tf.float32
    assert resized.shape == (2, 3, 2)
    np.testing.assert_allclose(np.mean(resized), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"), [(7, (7, 7)), ([3, 4], (3, 4)), (np.int64(2), (2, 2))]
)
def test_check_image_size(size, expected):
    assert input_pipeline.check_image_size(size) == expected
