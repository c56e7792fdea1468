"""What pruning, clustering and quantization-aware training with TF-MOT share."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_optkit.compression.export.signature import output_specs
from keras_optkit.compression.tfmot import modules
from keras_optkit.compression.tfmot.compiling import compile_settings
from keras_optkit.compression.tfmot.data import in_order, prepare
from keras_optkit.compression.tfmot.report import refuse
from keras_optkit.compression.tfmot.to_tf_keras import Conversion
from keras_optkit.compression.tfmot.weights import carry
from keras_optkit.core.checks import check_count
from keras_optkit.core.graph import Graph, graphs, rebuild
from keras_optkit.core.messages import did_you_mean

Layers = Sequence[str] | Callable[[keras.layers.Layer], bool] | None


class Session:
    """A Keras 3 model, its compiled settings and data, made ready for tf_keras.

    All of it is checked here, so that nothing is told after the work has begun.

    Args:
        model: A built and compiled Sequential or Functional Keras 3 model. It is not changed.
        data: As in `prepare`.
        validation_data: Likewise, or `None`.
        epochs: Integer >= 1.
        batch_size: Integer >= 1, for arrays.
        callbacks: Callbacks of tf_keras.
        verbose: As in `fit`.
        flat: Whether nested models are dissolved, as `Conversion` does it.

    Raises:
        ValueError: If the model, its settings or the data can't be used.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        validation_data: Any = None,
        epochs: int = 1,
        batch_size: int = 32,
        callbacks: Sequence[Any] | None = None,
        verbose: int | str = 0,
        flat: bool = False,
    ):
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if check_count(name, value) < 1:
                raise ValueError(f"`{name}` must be >= 1. Received: {name}={value!r}")
        graphs(model)
        self.source = model
        self.tf_keras = modules.tf_keras()
        self.tfmot = modules.tfmot()
        self.settings, problems = compile_settings(model, self.tf_keras)
        for name in ("train_step", "compute_loss"):
            if getattr(type(model), name) is not getattr(keras.Model, name):
                reason = "tf_keras would train without it; train such a model in Keras itself"
                problems.append((name, type(model).__name__, reason))
        if problems:
            refuse("without a counterpart in tf_keras", problems, model)
        for callback in callbacks or ():
            if not isinstance(callback, self.tf_keras.callbacks.Callback):
                raise ValueError(
                    "The training runs on tf_keras, so `callbacks` must be callbacks of tf_keras. "
                    f"Received: callbacks={callbacks!r}"
                )
        self.epochs = epochs
        self.data = prepare(data, model, batch_size)
        self.validation = None
        if validation_data is not None:
            self.validation = prepare(validation_data, model, batch_size, "validation_data")
        # The validation data, else the training data, as they were given.
        self.measured_on = data if validation_data is None else validation_data
        self._batch_size = batch_size
        self._callbacks = list(callbacks or ())
        self._verbose = verbose
        self.conversion = Conversion(model, flat)
        self.model = self.conversion.model
        if flat:
            self._outputs_as_lists()

    def chosen(self, layers: Layers, possible: dict[int, Any], what: str) -> dict[int, Any]:
        """Returns those of the possible layers that the user has chosen.

        Args:
            layers: Names of layers, a function of a Keras 3 layer, or `None` for all.
            possible: The tf_keras layers that TF-MOT can work on, by their ids.
            what: What is to be done with them, as in "pruned".
        """
        pairs = [(old, id(new)) for old, new in self.conversion.pairs if id(new) in possible]
        if not pairs:
            raise ValueError(
                f"TF-MOT knows no layer of this model that could be {what}. "
                f"Received: model={self.source!r}"
            )
        if layers is None:
            return possible
        if callable(layers):
            keys = [key for old, key in pairs if layers(old)]
        else:
            wanted = [layers] if isinstance(layers, str) else list(layers)
            names = {old.name for old, _ in pairs}
            for name in wanted:
                if name not in names:
                    raise ValueError(
                        f"'{name}' is no layer that TF-MOT can have {what}. "
                        f"{did_you_mean(name, sorted(names))} Received: layers={layers!r}"
                    )
            # Layers of one name may be in different nested models.
            keys = [key for old, key in pairs if old.name in wanted]
        if not keys:
            raise ValueError(f"`layers` chooses no layer to be {what}. Received: layers={layers!r}")
        return {key: possible[key] for key in keys}

    def fit(self, model: Any, callbacks: Sequence[Any] = ()) -> None:
        """Trains a tf_keras model with the settings and data of the session."""
        model.compile(**self.settings)
        validation = self.validation.arguments if self.validation else {}
        arrays = [validation[key] for key in ("x", "y", "sample_weight") if key in validation]
        model.fit(
            **self.data.arguments,
            epochs=self.epochs,
            validation_data=(tuple(arrays) if len(arrays) > 1 else arrays[0]) if arrays else None,
            callbacks=[*callbacks, *self._callbacks],
            verbose=self._verbose,
        )

    def evaluate(self, model: Any) -> dict[str, float]:
        """Returns the loss and metrics of a compiled tf_keras model on the validation data."""
        arguments = (self.validation or self.data).arguments
        return model.evaluate(**arguments, verbose=0, return_dict=True)

    def evaluate_source(self) -> dict[str, float]:
        """Returns the loss and metrics of the Keras 3 model on the validation data."""
        if isinstance(self.measured_on, tuple):
            names = ("x", "y", "sample_weight")
            arguments = dict(zip(names, self.measured_on, strict=False))
            arguments["batch_size"] = self._batch_size
        else:
            arguments = {"x": self.measured_on}
        found = self.source.evaluate(**arguments, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items()}

    def _outputs_as_lists(self) -> None:
        """Lets settings and labels follow the order of the outputs, whose names TF-MOT changes."""
        names = [spec.name for spec in output_specs(self.source)]
        if len(names) == 1 and not isinstance(Graph(self.source).output_structure, dict):
            return
        for key in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            self.settings[key] = in_order(self.settings[key], names)
        self.data = self.data.with_labels_as_lists(names)
        if self.validation:
            self.validation = self.validation.with_labels_as_lists(names)

    def result(self, trained: Any) -> keras.Model:
        """Returns a copy of the Keras 3 model, compiled as it is, with trained weights.

        Args:
            trained: A tf_keras model with the layers of the converted one, under their names.
        """
        new = rebuild(self.source)
        place = {id(layer): path for path, layer in by_path(self.model).items()}
        found = by_path(trained)
        copies = by_path(new)
        originals = {id(layer): path for path, layer in by_path(self.source).items()}
        for old, converted in self.conversion.pairs:
            carry(found[place[id(converted)]], copies[originals[id(old)]])
        new.compile_from_config(self.source.get_compile_config())
        return new


def by_path(model: Any) -> dict[tuple[str, ...], Any]:
    """Returns the layers of a model on either Keras that are no models, by the names to them.

    Args:
        model: The model; nested models are walked through.
    """
    found: dict[tuple[str, ...], Any] = {}
    for layer in model.layers:
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):
            found.update({(layer.name, *path): inner for path, inner in by_path(layer).items()})
        else:
            found[(layer.name,)] = layer
    return found


def wrapped(model: Any, wrap: Callable[[Any], Any], tf_keras: Any) -> Any:
    """Returns a tf_keras model with the layers of another one, some of them in wrappers.

    Args:
        model: The model; what is not wrapped is shared with it.
        wrap: A function from a layer to the layer that takes its place, itself or a wrapper.
        tf_keras: The module.
    """
    models: dict[int, Any] = {}

    def replace(layer):
        if not isinstance(layer, tf_keras.Model):
            return wrap(layer)
        if id(layer) not in models:
            models[id(layer)] = tf_keras.models.clone_model(layer, clone_function=replace)
        return models[id(layer)]

    return tf_keras.models.clone_model(model, clone_function=replace)
