import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit.stopping import averages

WEIGHTS = np.random.default_rng(0).normal(size=(7, 3, 2)).astype("float32")


def play(rule, first, **options):
    average = ops.convert_to_tensor(first)
    for count, weights in enumerate(WEIGHTS):
        taken = ops.convert_to_tensor(np.int32(count))
        average = rule(average, ops.convert_to_tensor(weights), taken, **options)
    return average


def number(tensor):
    return keras.ops.convert_to_numpy(tensor)


# What stands in an average before the first weights does not matter.
BEFORE = np.full((3, 2), 5, "float32")


def test_against_float64():
    wide = WEIGHTS.astype("float64")
    ema = wide[0]
    for weights in wide[1:]:
        ema = 0.9 * ema + 0.1 * weights
    got = number(play(averages.exponential, BEFORE, decay=0.9))
    np.testing.assert_allclose(got, ema, rtol=1e-5, atol=1e-7)
    got = number(play(averages.equal, BEFORE))
    np.testing.assert_allclose(got, wide.mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("last", "expected"), [(3, slice(4, 7)), (1, slice(6, 7)), (9, slice(7))])
def test_latest(last, expected):
    kept = play(averages.latest, np.full((last, 3, 2), 5, "float32"))
    got = number(averages.mean_of_latest(kept, 7))
    np.testing.assert_allclose(got, WEIGHTS[expected].mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["ema", "swa"])
def test_against_torch(method):
    torch = pytest.importorskip("torch")
    from torch.optim import swa_utils

    peer = torch.nn.Linear(2, 3, bias=False)
    function = swa_utils.get_ema_multi_avg_fn(0.9) if method == "ema" else None
    theirs = swa_utils.AveragedModel(peer, multi_avg_fn=function)
    for weights in WEIGHTS:
        with torch.no_grad():
            peer.weight.copy_(torch.from_numpy(weights))
        theirs.update_parameters(peer)
    options = {"decay": 0.9} if method == "ema" else {}
    ours = number(play(averages.RULES[method], BEFORE, **options))
    expected = theirs.module.weight.detach().cpu().numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
