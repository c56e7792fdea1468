import keras
import numpy as np
import pytest

from keras_optkit.augmentation import AugmentationPipeline, RandomAffine, RandomErasing

GOOD = np.random.default_rng(0).random((4, 5, 9, 1)).astype("float32")
BAD = {
    "above": GOOD * 255,
    "below": GOOD - 0.5,
    "NaN": np.where(np.arange(9)[:, None] == 3, np.nan, GOOD),
    "infinite": np.where(np.arange(9)[:, None] == 3, np.inf, GOOD),
}


def make_layer(**kwargs):
    return RandomErasing(1.0, **{"value_range": (0, 1), **kwargs})


@pytest.mark.parametrize("case", BAD)
def test_images_out_of_range_are_an_error(case):
    message = "must be finite numbers" if case in ("NaN", "infinite") else "`value_range`"
    for call in (make_layer(), make_layer().host):
        with pytest.raises(ValueError, match=f"{message}.*Received: images with values from"):
            call(BAD[case])
        call(GOOD)
    # A layer that needs no range still takes finite numbers only.
    if case in ("NaN", "infinite"):
        with pytest.raises(ValueError, match="Images must be finite"):
            RandomAffine(rotation=10)(BAD[case])
    else:
        RandomAffine(rotation=10)(BAD[case])


def test_images_that_were_rescaled_already_are_an_error():
    rescaled = r"rescaled to \[0, 1\]; pass `value_range=\(0, 1\)`"
    for layer in (make_layer(value_range=(0, 255)), AugmentationPipeline([])):
        with pytest.raises(ValueError, match=rescaled):
            layer(GOOD)
        layer((GOOD * 255).round())
        layer(np.zeros((2, 5, 9, 1), "float32"))


def test_the_first_call_is_checked_only():
    layer = make_layer()
    layer(GOOD)
    layer(BAD["above"])


def test_uint8_and_inference_are_not_checked():
    layer = make_layer()
    layer(np.full((2, 5, 9, 1), 255, "uint8"))
    layer(BAD["above"], training=False)


@pytest.mark.parametrize("by", ["layer.map", "dataset.map"])
def test_a_dataset_is_checked_once(by):
    import tensorflow as tf

    def mapped(*parts):
        dataset = tf.data.Dataset.from_tensor_slices(np.concatenate(parts)).batch(4)
        layer = make_layer()
        return layer.map(dataset) if by == "layer.map" else dataset.map(layer)

    for case in ("above", "NaN"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`value_range`"):
            list(mapped(BAD[case], GOOD))
    assert len(list(mapped(GOOD, BAD["above"]))) == 2


@pytest.mark.backends("tensorflow", "jax")
@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_compiled_step_shows_it_in_the_loss(jit_compile):
    model = keras.Sequential([keras.Input((5, 9, 1)), make_layer(), keras.layers.Flatten()])
    model.add(keras.layers.Dense(1))
    model.compile(keras.optimizers.SGD(0.0), loss="mse", jit_compile=jit_compile)
    if keras.backend.backend() == "jax" and not jit_compile:
        # Without a compiled step the layer gets values, and raises.
        with pytest.raises(ValueError, match="`value_range`"):
            model.train_on_batch(BAD["above"], np.zeros((4, 1)))
        return
    assert np.isfinite(model.train_on_batch(GOOD, np.zeros((4, 1))))
    # Inference is not checked.
    assert np.isfinite(model.evaluate(BAD["above"], np.zeros((4, 1)), verbose=0))
    assert np.isnan(model.train_on_batch(BAD["above"], np.zeros((4, 1))))


@pytest.mark.parametrize("value_range", [(1, 0), (0,), 255, (0, float("nan")), "01", (0, 0)])
def test_bad_ranges(value_range):
    with pytest.raises(ValueError, match="`value_range` must be None or a pair.*Received"):
        make_layer(value_range=value_range)
