"""What `Pruning` takes beside a schedule: structures, scope, targets, criteria, frequency."""

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import Pruning
from keras_optkit.pruning import (
    BlockSparsity,
    ConstantSparsity,
    CubicWithWarmup,
    NMSparsity,
    OneShot,
    PolynomialDecay,
)


def kernels(model):
    return [keras.ops.convert_to_numpy(v) for v in model.trainable_variables if len(v.shape) > 1]


def zeros(model):
    return [float(np.mean(kernel == 0)) for kernel in kernels(model)]


def fit(model, toy, *callbacks, epochs=2):
    return model.fit(*toy, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))


def test_n_of_m(make_model, toy):
    model = make_model("adam")
    fit(model, toy, Pruning(OneShot(0.5), structure=NMSparsity(2, 4)))
    for kernel in kernels(model):
        assert ((kernel.reshape(-1, 4, kernel.shape[-1]) != 0).sum(axis=1) == 2).all()


def test_blocks(make_model, toy):
    model = make_model("adam")
    schedule = PolynomialDecay(0.0, 0.5, 0, 6, frequency=2)
    fit(model, toy, Pruning(schedule, select=model.layers[0], structure=BlockSparsity((2, 4))))
    blocks = kernels(model)[0].reshape(2, 2, 2, 4) != 0
    assert (blocks.all(axis=(1, 3)) == blocks.any(axis=(1, 3))).all()
    assert zeros(model) == [0.5, 0.0]


def test_one_threshold_across_layers(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.0))
    model.layers[1].kernel.assign(model.layers[1].kernel * 100)
    fit(model, toy, Pruning(OneShot(0.5), scope="global"))
    assert zeros(model) == [28 / 32, 0.0]


def test_targets_of_single_layers(make_model, toy):
    model = make_model("adam")
    first, second = model.layers
    ramp = PolynomialDecay(0.0, 0.5, 0, 6, frequency=2)
    cases = [
        ({second.kernel.path: 0.25}, [0.5, 0.25]),
        ({second: 0.75, keras.layers.Dense: 0.25}, [0.25, 0.75]),
        ({first.name + "/": 0.0}, [0.0, 0.5]),
        ({second: ConstantSparsity(0.75, 3, frequency=3)}, [0.5, 0.75]),
        # The path itself counts before an expression, wherever that stands.
        ({"kernel": 0.75, first.kernel.path: 0.25}, [0.25, 0.75]),
    ]
    start = model.get_weights()
    for targets, expected in cases:
        model.set_weights(start)
        fit(model, toy, Pruning(ramp, targets=targets))
        assert zeros(model) == expected


def test_targets_that_were_made_before_the_model_was_saved(make_model, toy, tmp_path):
    """A model that is loaded leaves its own name out of the paths of its variables."""
    model = make_model("adam")
    targets = {model.layers[1].kernel.path: 0.25}
    fit(model, toy)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fit(loaded, toy, Pruning(OneShot(0.5), targets=targets))
    assert zeros(loaded) == [0.5, 0.25]


def test_a_criterion_of_ones_own(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.0))
    before = kernels(model)
    fit(model, toy, Pruning(OneShot(0.5), criterion=lambda kernel: -keras.ops.abs(kernel)))
    for kernel, old in zip(kernels(model), before, strict=True):
        assert np.abs(old[kernel == 0]).min() > np.abs(old[kernel != 0]).max()


def test_a_criterion_sees_the_weights_as_they_were_just_updated(make_model, toy):
    """Masked ones have moved, and may come back; averages have the zeros of their kernels."""
    start = make_model().get_weights()

    def masks(criterion):
        optimizer = keras.optimizers.SGD(0.5, momentum=0.9, use_ema=True, ema_momentum=0.5)
        model, seen = make_model(optimizer), []
        model.set_weights(start)
        watch = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append([k == 0 for k in kernels(model)])
        )
        pruning = Pruning(ConstantSparsity(0.5, 1, frequency=3), criterion=criterion)
        keras.utils.set_random_seed(0)
        fit(model, toy, pruning, watch, epochs=4)
        assert zeros(model) == [0.5, 0.5]
        return [np.concatenate([m.ravel() for m in epoch]) for epoch in seen]

    own, plain = masks(lambda kernel: keras.ops.abs(kernel.value)), masks("magnitude")
    np.testing.assert_array_equal(own, plain)
    # Masks that stayed as they were would prove little.
    assert (own[0] != own[-1]).any()


def test_the_frequency_of_the_callback_comes_first(make_model, toy):
    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["sparsity"])

    seen, model = [], make_model("adam")
    schedule = PolynomialDecay(0.0, 0.75, 0, 16, power=1, frequency=100)
    fit(model, toy, Pruning(schedule, frequency=4), Count(), epochs=4)
    np.testing.assert_allclose(seen, [0.1875, 0.375, 0.5625, 0.75], atol=0.02)


def test_a_warm_up_in_the_notation_of_the_run(make_model, toy):
    schedule = CubicWithWarmup(0.75, warmup="1ep", cooldown="1ep", frequency=1)
    logs = fit(make_model("adam"), toy, Pruning(schedule), epochs=4).history["sparsity"]
    assert logs[0] == 0 and 0 < logs[1] < 0.75 and logs[2:] == [0.75, 0.75]


def test_one_shot_keeps_its_masks(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.5))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append([k == 0 for k in kernels(model)])
    )
    fit(model, toy, Pruning(OneShot(0.5, 2)), watch, epochs=3)
    for masks in seen[1:]:
        for mask, first in zip(masks, seen[0], strict=True):
            np.testing.assert_array_equal(mask, first)


def test_the_sparsity_of_each_kernel_is_logged_on_request(make_model, toy):
    model = make_model("adam")
    history = fit(model, toy, Pruning(OneShot(0.5), log_layers=True)).history
    paths = [v.path for v in model.trainable_variables[::2]]
    assert [history[f"sparsity/{path}"] for path in paths] == [[0.5, 0.5]] * 2


def test_a_state_holds_masks_that_no_weight_shows(make_model, toy):
    model = make_model("adam")
    pruning = Pruning(OneShot(0.5))
    fit(model, toy, pruning)
    state = pruning.get_state()
    for mask, kernel in zip(state["masks"], kernels(model), strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, kernel != 0)
    resumed = Pruning(OneShot(0.5))
    resumed.set_state(state)
    for kernel in model.trainable_variables[::2]:
        kernel.assign(np.ones(kernel.shape))
    model.fit(*toy, batch_size=16, epochs=3, initial_epoch=2, verbose=0, callbacks=[resumed])
    for mask, kernel in zip(state["masks"], kernels(model), strict=True):
        np.testing.assert_array_equal(mask, kernel != 0)


def test_a_state_of_another_model_is_refused(make_model, toy):
    pruning = Pruning(OneShot(0.5))
    pruning.set_state({"start": 0, "masks": [np.ones((2, 2), bool)]})
    model = make_model("adam")
    with pytest.raises(ValueError, match="state that is resumed is of other kernels"):
        fit(model, toy, pruning)
    assert zeros(model) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"structure": (2, 4)}, r"structure=\(2, 4\)"),
        ({"scope": "model"}, "scope='model'"),
        ({"scope": "global", "targets": {"a": 0.5}}, r"targets=\{'a': 0.5\}"),
        ({"scope": "global", "structure": NMSparsity(2, 4)}, "structure=NMSparsity"),
        ({"criterion": "gradient"}, "criterion='gradient'"),
        ({"frequency": 0}, "frequency=0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match="Received: .*" + message):
        Pruning(PolynomialDecay(0.0, 0.5, 0, 10), **kwargs)
    with pytest.raises(ValueError, match="Received: frequency=5"):
        Pruning(OneShot(0.5), frequency=5)


def test_what_only_the_model_shows_is_told_before_the_first_step(make_model, toy):
    ramp = PolynomialDecay(0.0, 0.5, 0, 6)
    cases = [
        ({"structure": BlockSparsity((5, 1))}, "larger than the kernel"),
        ({"structure": NMSparsity(1, 4)}, r"makes 0.75 of the weights zero.*wants 0.5"),
        ({"targets": {"no/such": 0.5}}, r"names none of the selected kernels.*'no/such'"),
        ({"targets": {"kernel": 1.0}}, r"in \[0, 1\)"),
        ({"targets": {"kernel": "half"}}, "Received: targets"),
        ({"targets": {"kernel": 0.0}}, "leaves nothing to prune"),
        ({"criterion": lambda kernel: keras.ops.sum(kernel)}, "a score for each weight"),
    ]
    model = make_model("adam")
    before = model.get_weights()
    for kwargs, message in cases:
        with pytest.raises(ValueError, match=message):
            fit(model, toy, Pruning(ramp, **kwargs))
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_warm_up_that_leaves_no_time_is_told_with_the_numbers(make_model, toy):
    with pytest.raises(ValueError, match="ends at step 6 and `cooldown` begins at step 4"):
        fit(make_model("adam"), toy, Pruning(CubicWithWarmup(0.5, 0.75, 0.5)))


def test_an_uncompiled_or_unbuilt_model_is_told(toy, make_model):
    pruning = Pruning(OneShot(0.5))
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    unbuilt.compile("adam", "mse")
    pruning.set_model(unbuilt)
    pruning.set_params({"epochs": 1, "steps": 4})
    pruning.on_train_begin()
    with pytest.raises(ValueError, match="has no weights yet"):
        pruning.on_epoch_begin(0)
    pruning.set_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))
    pruning.on_train_begin()
    with pytest.raises(ValueError, match="compile"):
        pruning.on_epoch_begin(0)
