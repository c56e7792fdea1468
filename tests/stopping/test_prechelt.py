import numpy as np
import pytest

from keras_optkit.stopping import prechelt
from keras_optkit.stopping.prechelt import GeneralizationLoss, ProgressQuotient, UpStrips


def curves(seed, count=60):
    """Validation and training errors that fall, wobble, and for validation rise again."""
    rng = np.random.default_rng(seed)
    t = np.arange(count)
    training = 0.1 + np.exp(-t / 15) + rng.uniform(0, 0.05, count)
    validation = training + 0.1 + (t / 60) ** 2 + rng.uniform(0, 0.05, count)
    return validation, training


# The definitions of section 2.2, on whole curves, with epochs counted from 1 as there.


def reference_gl(validation):
    return 100 * (validation / np.minimum.accumulate(validation) - 1)


def reference_stop(kind, level, validation, training, k):
    """The first epoch (from 1) in which the criterion says stop, or None."""
    gl = reference_gl(validation)
    for t in range(1, len(validation) + 1):
        if kind == "GL":
            met = gl[t - 1] > level
        elif t % k:
            continue
        elif kind == "PQ":
            strip = training[t - k : t]
            met = gl[t - 1] / (1000 * (strip.mean() / strip.min() - 1)) > level
        else:
            met = reference_up(level, t, validation, k)
        if met:
            return t
    return None


def reference_up(s, t, validation, k):
    """UP_s after epoch t, recursively: UP_(s-1) after epoch t-k, and the error rose since."""
    if s == 0:
        return True
    return (
        t - k >= 1
        and validation[t - 1] > validation[t - k - 1]
        and reference_up(s - 1, t - k, validation, k)
    )


def ours(criterion, validation, training):
    for t in range(1, len(validation) + 1):
        if criterion.stops(list(validation[:t]), list(training[:t])):
            return t
    return None


@pytest.mark.parametrize("seed", range(10))
def test_equal_to_the_definitions(seed):
    validation, training = curves(seed)
    stops = []
    for alpha in (1, 5, 20):
        stops.append(reference_stop("GL", alpha, validation, training, None))
        assert ours(GeneralizationLoss(alpha), validation, training) == stops[-1]
    for alpha in (0.1, 0.5, 2):
        for k in (3, 5):
            stops.append(reference_stop("PQ", alpha, validation, training, k))
            assert ours(ProgressQuotient(alpha, k), validation, training) == stops[-1]
    for count in (1, 2, 3):
        for k in (3, 5):
            stops.append(reference_stop("UP", count, validation, training, k))
            assert ours(UpStrips(count, k), validation, training) == stops[-1]
    assert len(set(stops)) > 5


def test_training_without_progress_or_error():
    assert prechelt.training_progress([0.5, 0.5], 2) == 0
    assert prechelt.training_progress([0.0, 0.5], 2) == np.inf
    assert prechelt.generalization_loss([0.0, 0.1]) == np.inf
    assert prechelt.generalization_loss([0.0]) == 0
    # No progress and a loss: the quotient is infinite. No loss: nothing to stop for.
    assert ProgressQuotient(1, 2).stops([0.5, 0.6], [0.4, 0.4])
    assert not ProgressQuotient(1, 2).stops([0.5, 0.4], [0.4, 0.4])


def test_the_papers_notation():
    assert prechelt.get("GL5") == GeneralizationLoss(5)
    assert prechelt.get("PQ_0.75") == ProgressQuotient(0.75)
    assert prechelt.get("UP4") == UpStrips(4)
    own = UpStrips(2, strip=3)
    assert prechelt.get(own) is own


@pytest.mark.parametrize("criterion", ["GL", "XY5", "GL0", "UP2.5", 5, GeneralizationLoss, ""])
def test_bad_criteria(criterion):
    with pytest.raises(ValueError, match="Received: "):
        prechelt.get(criterion)


def test_bad_arguments():
    with pytest.raises(ValueError, match="Received: alpha=-1"):
        GeneralizationLoss(-1)
    with pytest.raises(ValueError, match="Received: strip=0"):
        ProgressQuotient(1, 0)
    with pytest.raises(ValueError, match="Received: count=True"):
        UpStrips(True)
