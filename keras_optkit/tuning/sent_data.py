"""What one process sends to others: functions by value, and datasets as their graphs."""

from typing import Any

from keras_optkit.tuning.training_data import is_dataset

_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "GeneratorDataset"}


def dumps(value: Any) -> bytes:
    """Returns a value as bytes, from which `pickle.loads` makes it again in another process.

    Functions and classes that no module holds, such as those of a script or a notebook, are sent by
    value. A `tf.data.Dataset` is sent as its graph.

    Args:
        value: Anything.

    Raises:
        ValueError: If it holds what cannot be sent.
    """
    import io

    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj):
            if is_dataset(obj):
                return _from_graph, (_graph(obj), obj.element_spec)
            return super().reducer_override(obj)

    file = io.BytesIO()
    try:
        Pickler(file).dump(value)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            "With `workers`, the hypermodel and the arguments of `search` are sent to other "
            f"processes, and these cannot be: {error}. Make what cannot be sent, such as an open "
            f"file, inside of `build` or `HyperModel.fit`. Received: {type(error).__name__}"
        ) from error
    return file.getvalue()


def _graph(dataset: Any) -> bytes:
    import tensorflow as tf

    variant = tf.data.experimental.to_variant(dataset)
    graph = tf.raw_ops.DatasetToGraphV2(
        input_dataset=variant, external_state_policy=1, strip_device_assignment=True
    ).numpy()
    definition = tf.compat.v1.GraphDef.FromString(graph)
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    found = sorted({node.op for node in nodes} & _PYTHON)
    if found:
        raise ValueError(
            "With `workers`, a `tf.data.Dataset` is sent to other processes, and one that calls "
            "Python cannot be. Use TensorFlow's functions in it, pass arrays, or make it inside of "
            f"`HyperModel.fit`. Received: a dataset with {' and '.join(found)}"
        )
    return graph


def _from_graph(graph: bytes, spec: Any) -> Any:
    import tensorflow as tf

    with tf.device("CPU"):
        variant = tf.raw_ops.DatasetFromGraph(graph_def=graph)
        return tf.data.experimental.from_variant(variant, spec)
