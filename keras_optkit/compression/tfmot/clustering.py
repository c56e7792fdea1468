"""Weight clustering with TF-MOT's wrappers."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit.compression.tfmot.training import Layers, Session, wrapped
from keras_optkit.core.messages import did_you_mean


def cluster_weights(
    model: keras.Model,
    data: Any,
    number_of_clusters: int,
    cluster_centroids_init: str = "kmeans++",
    epochs: int = 1,
    batch_size: int = 32,
    validation_data: Any = None,
    layers: Layers = None,
    preserve_sparsity: bool = False,
    cluster_per_channel: bool = False,
    callbacks: Sequence[Any] | None = None,
    verbose: int | str = 0,
) -> keras.Model:
    """Trains a copy of a Keras 3 model with TF-MOT's clustering, and returns it stripped.

    Each kernel ends with few distinct values, so that the file compresses well.

    Args:
        model: A built and compiled Sequential or Functional Keras 3 model, trained already. It is
            not changed. A fresh optimizer has the settings of its own.
        data: A `tf.data.Dataset` or a `keras.utils.PyDataset` of batches `(x, y)`, or a tuple of
            arrays `(x, y)` or `(x, y, sample_weight)`.
        number_of_clusters: Integer >= 2, the distinct values of a kernel at most; with
            `preserve_sparsity` at least 3, zero among them.
        cluster_centroids_init: `"kmeans++"`, `"linear"`, `"random"`, `"density"`, or a member of
            TF-MOT's `CentroidInitialization`.
        epochs: Integer >= 1.
        batch_size: Integer >= 1, for arrays.
        validation_data: Like `data`, or `None`.
        layers: Names of the layers to cluster, or a function from a layer to a boolean. Defaults to
            all that TF-MOT clusters.
        preserve_sparsity: Whether zeros in the kernels stay zeros, for a model that is pruned.
        cluster_per_channel: Whether each output channel of a `Conv2D` has its own clusters.
        callbacks: Callbacks of tf_keras.
        verbose: As in `fit`. Defaults to 0.

    Returns:
        A compiled Keras 3 model of the same class, layers and names.

    Raises:
        ValueError: If the model, its settings, an argument or the data can't be used; nothing has
            been done then.

    Example:

    ```python
    clustered = keras_optkit.tfmot.cluster_weights(model, (x, y), number_of_clusters=16)
    ```
    """
    least = 3 if preserve_sparsity else 2
    whole = isinstance(number_of_clusters, int) and not isinstance(number_of_clusters, bool)
    if not whole or number_of_clusters < least:
        why = ", with `preserve_sparsity`, for zero is one of them" if preserve_sparsity else ""
        raise ValueError(
            f"`number_of_clusters` must be an integer >= {least}{why}. "
            f"Received: number_of_clusters={number_of_clusters!r}"
        )
    session = Session(model, data, validation_data, epochs, batch_size, callbacks, verbose)
    clustering = session.tfmot.clustering.keras
    initialization = _initialization(cluster_centroids_init, clustering.CentroidInitialization)
    chosen = session.chosen(layers, _clusterable(session, number_of_clusters), "clustered")
    from tensorflow_model_optimization.python.core.clustering.keras.cluster import _cluster_weights

    def wrap(layer):
        if id(layer) not in chosen:
            return layer
        # The public function takes neither of the last two.
        return _cluster_weights(
            layer,
            number_of_clusters,
            initialization,
            preserve_sparsity=preserve_sparsity,
            cluster_per_channel=cluster_per_channel,
        )

    clustered = wrapped(session.model, wrap, session.tf_keras)
    session.fit(clustered)
    return session.result(clustering.strip_clustering(clustered))


def _initialization(given: Any, kinds: Any) -> Any:
    if isinstance(given, kinds):
        return given
    names = {
        "density": kinds.DENSITY_BASED,
        "kmeans++": kinds.KMEANS_PLUS_PLUS,
        "linear": kinds.LINEAR,
        "random": kinds.RANDOM,
    }
    if given not in names:
        raise ValueError(
            f"`cluster_centroids_init` is not known. {did_you_mean(str(given), names)} "
            f"Received: cluster_centroids_init={given!r}"
        )
    return names[given]


def _clusterable(session: Session, clusters: int) -> dict[int, Any]:
    from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
        ClusteringRegistry,
    )

    found = {}
    for _, layer in session.conversion.pairs:
        names = ClusteringRegistry._LAYERS_WEIGHTS_MAP.get(type(layer), [])
        # A kernel with fewer weights than clusters has few values as it is.
        if names and all(getattr(layer, name).shape.num_elements() > clusters for name in names):
            found[id(layer)] = layer
    return found
