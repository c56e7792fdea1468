import numpy as np
import pytest
from bridge_helpers import kernels

import keras_optkit.tfmot as bridge

pytestmark = pytest.mark.filterwarnings("ignore:__array__")


def distinct(model):
    return {name: len(np.unique(kernel)) for name, kernel in kernels(model).items()}


def test_each_kernel_has_few_values(unchanged, images):
    clustered = bridge.cluster_weights(unchanged, images, 6, epochs=2)
    assert max(distinct(clustered).values()) <= 6 < min(distinct(unchanged).values())
    found = clustered.evaluate(*images, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.5


@pytest.mark.backends("tensorflow")
def test_zeros_stay(unchanged, images):
    sparse = bridge.prune_low_magnitude(unchanged, images, epochs=1)
    clustered = bridge.cluster_weights(
        sparse, images, 6, cluster_centroids_init="linear", preserve_sparsity=True
    )
    for name, kernel in kernels(clustered).items():
        assert len(np.unique(kernel)) <= 6
        assert (kernel[kernels(sparse)[name] == 0] == 0).all(), name


@pytest.mark.backends("tensorflow")
def test_only_some_layers(unchanged, images):
    clustered = bridge.cluster_weights(unchanged, images, 4, layers=["classes"])
    counts = distinct(clustered)
    assert counts["classes"] <= 4 < counts["branch"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(number_of_clusters=1), "an integer >= 2"),
        (dict(number_of_clusters=8.0), "an integer >= 2"),
        (dict(number_of_clusters=2, preserve_sparsity=True), "an integer >= 3, with"),
        (
            dict(number_of_clusters=8, cluster_centroids_init="linaer"),
            "Did you mean 'linear'.*Received: cluster_centroids_init='linaer'",
        ),
        (dict(number_of_clusters=10**6), "knows no layer of this model that could be clustered"),
    ],
)
def test_bad_arguments(arguments, message, unchanged, images):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        bridge.cluster_weights(unchanged, images, **arguments)
