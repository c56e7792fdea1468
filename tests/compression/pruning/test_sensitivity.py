import json

import cv2
import keras
import numpy as np
import pytest

from keras_optkit.callbacks import Pruning
from keras_optkit.pruning import PolynomialDecay, sensitivity


@pytest.fixture
def trained(make_model, toy):
    model = make_model(keras.optimizers.Adam(0.05))
    model.fit(*toy, epochs=15, verbose=0)
    return model


def test_scores_are_those_of_a_model_pruned_by_hand(trained, toy):
    before = trained.get_weights()
    found = sensitivity(trained, toy, levels=[0.5, 0.25])
    for a, b in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.levels == [0.25, 0.5] and found.metric == "accuracy"
    assert found.baseline == trained.evaluate(*toy, verbose=0)[1]
    for kernel in trained.trainable_variables[::2]:
        weights = keras.ops.convert_to_numpy(kernel).copy()
        for level, score in zip(found.levels, found.scores[kernel.path], strict=True):
            pruned = weights.copy().ravel()
            pruned[np.argsort(np.abs(pruned))[: round(level * pruned.size)]] = 0
            kernel.assign(pruned.reshape(weights.shape))
            assert score == pytest.approx(trained.evaluate(*toy, verbose=0)[1])
        kernel.assign(weights)


def test_weights_are_put_back_after_an_error(trained, toy):
    before = trained.get_weights()
    calls = []

    def evaluate(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"loss": 0.0}

    trained.evaluate = evaluate
    with pytest.raises(KeyboardInterrupt):
        sensitivity(trained, toy)
    for a, b in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_its_targets_are_taken_by_pruning(trained, toy):
    found = sensitivity(trained, toy, levels=[0.25, 0.75])
    path = trained.trainable_variables[0].path
    found.scores = {path: [found.baseline - 0.01, 0.0], list(found.scores)[1]: [0.0, 1.0]}
    targets = found.targets(max_drop=0.02)
    assert list(targets.values()) == [0.25, 0.0]
    callback = Pruning(PolynomialDecay(0.0, 0.5, 0, 2, frequency=1), targets=targets)
    trained.fit(*toy, verbose=0, epochs=2, callbacks=[callback])
    shares = [np.mean(keras.ops.convert_to_numpy(v) == 0) for v in trained.trainable_variables[::2]]
    assert shares == [0.25, 0.0]


def test_a_loss_falls_the_other_way(trained, toy):
    found = sensitivity(trained, toy, levels=[0.9], metric="loss")
    assert all(drop[0] > 0 for drop in found.drops().values())
    assert set(found.targets(0.0).values()) == {0.0}


def test_picture_text_and_dictionary(trained, toy, tmp_path):
    found = sensitivity(trained, toy, levels=[0.5])
    found.plot(tmp_path / "picture.png")
    assert cv2.imread(str(tmp_path / "picture.png")).std() > 10
    assert "50.0%" in str(found) and "not pruned" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["levels"] == [0.5]
    with pytest.raises(ValueError, match="PNG"):
        found.plot(tmp_path / "picture.pdf")


def test_bad_input(trained, toy, make_model):
    for kwargs, message in (
        ({"levels": [1.0]}, "levels=1.0"),
        ({"levels": []}, "must not be empty"),
        ({"metric": "acuracy"}, "Did you mean 'accuracy'"),
        ({"select": "no/such"}, "matches no trainable variable"),
    ):
        with pytest.raises(ValueError, match=message):
            sensitivity(trained, toy, **kwargs)
    with pytest.raises(ValueError, match="max_drop=-1"):
        sensitivity(trained, toy, levels=[0.5]).targets(-1)
    with pytest.raises(ValueError, match="compile"):
        sensitivity(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), toy)
