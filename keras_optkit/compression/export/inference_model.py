"""A model as it is in inference, which Keras can export."""

import contextlib
from collections.abc import Iterator

import keras

from keras_optkit.compression.export.full_precision import in_float32
from keras_optkit.compression.export.signature import input_specs, output_specs, pack_inputs


@contextlib.contextmanager
def inference_model(model: keras.Model, flat: bool) -> Iterator[keras.Model]:
    """Yields a Functional model that calls a model with `training=False`, in float32.

    `Model.export` calls a model without saying that it is inference, and layers of augmentation,
    whose default is training, then stay active in what it writes.

    Args:
        model: A built Sequential or Functional model. What the call leaves on it is taken back.
        flat: Whether the new model takes and returns lists, in the order of `model.inputs` and
            `model.outputs`. Otherwise it takes what the model takes, and returns its single output
            or a dictionary of outputs by name.
    """
    wide = in_float32(model)
    calls = len(wide._inbound_nodes)
    # On torch the exporter turns these flags off.
    modules = list(wide.modules()) if keras.backend.backend() == "torch" else []
    flags = [module.training for module in modules]
    try:
        specs = input_specs(wide)
        inputs = [keras.Input(batch_shape=s.shape, dtype=s.dtype, name=s.name) for s in specs]
        packed = pack_inputs(wide, inputs)
        outputs = keras.tree.flatten(wide(packed, training=False))
        if flat:
            yield keras.Model(inputs, outputs, name=f"{wide.name}_inference")
            return
        names = [spec.name for spec in output_specs(wide)]
        by_name = dict(zip(names, outputs, strict=True))
        result = outputs[0] if len(outputs) == 1 else by_name
        yield keras.Model(packed, result, name=f"{wide.name}_inference")
    finally:
        del wide._inbound_nodes[calls:]
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def signature(model: keras.Model) -> list:
    """Returns the input signature of a Functional model, with the names of its inputs."""
    specs = [keras.InputSpec(shape=s.shape, dtype=s.dtype, name=s.name) for s in input_specs(model)]
    return [pack_inputs(model, specs)]
