"""Quantization-aware training with TF-MOT, to a LiteRT file."""

import dataclasses
import importlib
import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit.compression.export.files import require_writable, write_atomically
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.signature import output_specs
from keras_optkit.compression.tfmot.litert import evaluate_litert, to_bytes
from keras_optkit.compression.tfmot.quantizable import reasons
from keras_optkit.compression.tfmot.report import refuse
from keras_optkit.compression.tfmot.training import Layers, Session

_PRESERVE = (None, "sparsity", "clusters", "sparsity_and_clusters")


@dataclasses.dataclass(frozen=True)
class QuantizationResult:
    """What quantization-aware training gave.

    Args:
        content: The bytes of the LiteRT file.
        before: Dictionary of the loss and metrics of the Keras 3 model.
        after: The same of the trained model that emulates 8 bits, on tf_keras.
        litert: Dictionary of the metrics of the file, run by the LiteRT interpreter; empty if the
            model was compiled without metrics.
    """

    content: bytes = dataclasses.field(repr=False)
    before: dict[str, float]
    after: dict[str, float]
    litert: dict[str, float]

    def model(self) -> LiteRTModel:
        """Returns the file as a `keras_optkit.export.LiteRTModel`."""
        return LiteRTModel.from_bytes(self.content)

    def save(self, path: str | os.PathLike) -> LiteRTModel:
        """Writes the file, and returns it as a `keras_optkit.export.LiteRTModel`.

        Args:
            path: Where it goes; its folder must exist.
        """
        path = require_writable(path)
        write_atomically(path, self.content)
        return LiteRTModel(path)


def quantize_model(
    model: keras.Model,
    data: Any,
    epochs: int = 1,
    batch_size: int = 32,
    validation_data: Any = None,
    layers: Layers = None,
    skip_unsupported: bool = False,
    preserve: str | None = None,
    callbacks: Sequence[Any] | None = None,
    verbose: int | str = 0,
) -> QuantizationResult:
    """Trains a copy of a Keras 3 model with TF-MOT's 8-bit quantization, and converts it to LiteRT.

    Nested models are dissolved, for TF-MOT takes none.

    Args:
        model: A built and compiled Sequential or Functional Keras 3 model, trained already. It is
            not changed. A fresh optimizer has the settings of its own, often with too high a
            learning rate for this: a tenth is a good start.
        data: A `tf.data.Dataset` or a `keras.utils.PyDataset` of batches `(x, y)`, or a tuple of
            arrays `(x, y)` or `(x, y, sample_weight)`. Every model learns its ranges here too.
        epochs: Integer >= 1.
        batch_size: Integer >= 1, for arrays.
        validation_data: Like `data`; what the metrics before and after are measured on. Defaults to
            `data`.
        layers: Names of the layers to quantize, or a function from a layer to a boolean; the others
            stay in float32. Defaults to all.
        skip_unsupported: Whether layers that TF-MOT's scheme does not know stay in float32. By
            default they are an error, which lists them.
        preserve: What training must not undo: `"sparsity"` keeps the zeros of a pruned model,
            `"clusters"` the few values of a clustered one, `"sparsity_and_clusters"` both.
        callbacks: Callbacks of tf_keras.
        verbose: As in `fit`. Defaults to 0.

    Returns:
        A `QuantizationResult`: the bytes, and the metrics before, after and of the file.

    Raises:
        ValueError: If the model, its settings, an argument or the data can't be used, or layers
            cannot be quantized; nothing has been done then.

    Example:

    ```python
    result = keras_optkit.tfmot.quantize_model(model, (x, y), validation_data=(x_test, y_test))
    result.before["accuracy"], result.litert["accuracy"]
    result.save("model.tflite")
    ```
    """
    if preserve not in _PRESERVE:
        raise ValueError(f"`preserve` must be one of {_PRESERVE}. Received: preserve={preserve!r}")
    session = Session(
        model, data, validation_data, epochs, batch_size, callbacks, verbose, flat=True
    )
    quantization = session.tfmot.quantization.keras
    why_not = reasons(session.model, _scheme(None).get_quantize_registry())
    chosen = _chosen(session, why_not, layers, skip_unsupported)
    scheme = _without(_scheme(preserve), set(why_not))

    def annotate(layer):
        chooses = layer.name in chosen
        return quantization.quantize_annotate_layer(layer) if chooses else layer

    tf_keras = session.tf_keras
    with quantization.quantize_scope(_own_objects()):
        annotated = tf_keras.models.clone_model(session.model, clone_function=annotate)
        quantized = quantization.quantize_apply(annotated, scheme)
        before = session.evaluate_source()
        session.fit(quantized)
        after = _with_names(session.evaluate(quantized), quantized, model)
        content = to_bytes(quantized, model)
    litert = evaluate_litert(content, model, session.measured_on)
    return QuantizationResult(content, before, after, litert)


def _scheme(preserve: str | None) -> Any:
    root = "tensorflow_model_optimization.python.core.quantization.keras"
    if preserve is None:
        module, name = "default_8bit.default_8bit_quantize_scheme", "Default8BitQuantizeScheme"
    elif preserve == "sparsity":
        module = "collab_opts.prune_preserve.default_8bit_prune_preserve_quantize_scheme"
        name = "Default8BitPrunePreserveQuantizeScheme"
    else:
        module = "collab_opts.cluster_preserve.default_8bit_cluster_preserve_quantize_scheme"
        name = "Default8BitClusterPreserveQuantizeScheme"
    scheme = getattr(importlib.import_module(f"{root}.{module}"), name)
    if preserve in (None, "sparsity"):
        return scheme()
    return scheme(preserve_sparsity=preserve == "sparsity_and_clusters")


def _without(scheme: Any, names: set[str]) -> Any:
    """Keeps a scheme from the outputs of layers that it cannot quantize.

    TF-MOT quantizes the output of a float layer in front of a quantized one, and fails on its
    activation if it does not know that.
    """
    make = scheme.get_quantize_registry

    def get_quantize_registry():
        registry = make()
        supports = registry.supports
        registry.supports = lambda layer: layer.name not in names and supports(layer)
        return registry

    scheme.get_quantize_registry = get_quantize_registry
    return scheme


def _with_names(found: dict[str, float], quantized: Any, model: keras.Model) -> dict[str, float]:
    """Calls the metrics of outputs by the names that they have in the Keras 3 model."""
    names = [spec.name for spec in output_specs(model)]
    if len(names) == 1:
        return found
    # The longest first: `dense_1_loss` is of the output `dense_1`, not of `dense`.
    pairs = sorted(zip(quantized.output_names, names, strict=True), key=lambda p: -len(p[0]))
    renamed = {}
    for key, value in found.items():
        old, new = next((p for p in pairs if key.startswith(f"{p[0]}_")), ("", ""))
        renamed[new + key.removeprefix(old)] = value
    return renamed


def _chosen(
    session: Session, why_not: dict[str, str], layers: Layers, skip_unsupported: bool
) -> set[str]:
    kinds = {layer.name: type(layer).__name__ for layer in session.model.layers}
    inputs = {name for name, kind in kinds.items() if kind == "InputLayer"}
    if layers is None:
        names = set(kinds) - inputs
    else:
        possible = {id(new): new for _, new in session.conversion.pairs}
        names = {new.name for new in session.chosen(layers, possible, "quantized").values()}
    problems = [
        (name, kinds[name], why_not[name]) for name in kinds if name in names & set(why_not)
    ]
    if problems and not skip_unsupported:
        refuse(
            "that TF-MOT's default 8-bit scheme cannot quantize",
            problems,
            session.source,
            "Pass `skip_unsupported=True` to leave these in float32, or `layers` to quantize some "
            "layers only.",
        )
    if not names - set(why_not):
        raise ValueError(f"No layer is left to quantize. Received: model={session.source!r}")
    return names - set(why_not)


def _own_objects() -> dict[str, Any]:
    from keras_optkit.compression.tfmot.tf_keras_parts import ACTIVATIONS, Operation

    return {**ACTIVATIONS, "Operation": Operation}
