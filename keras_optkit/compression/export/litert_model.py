"""The face of a `.tflite` file: predict, evaluate, benchmark, on the LiteRT interpreter."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.export import datasets
from keras_optkit.compression.export.measure import Latency, interleaved_times
from keras_optkit.compression.export.quiet import quiet
from keras_optkit.compression.export.signature import TensorSpec, bind, file_name, random_inputs


class LiteRTModel:
    """A `.tflite` file that is used like a Keras model.

    Inputs are bound by name. Quantized inputs and outputs, where a file has them, are quantized
    and dequantized here: data go in and out as floats.

    Args:
        path: Path of a `.tflite` file.
        threads: Integer, how many threads `predict` and `evaluate` use; `None` leaves it to the
            interpreter.

    Raises:
        ValueError: If there is no such file, or the interpreter cannot run it.

    Example:

    ```python
    lite = keras_optkit.export.LiteRTModel("model.tflite")
    probabilities = lite.predict(x)
    lite.evaluate(x, y, metrics=["accuracy"])  # {"accuracy": 0.97}
    lite.benchmark(threads=1)  # Latency(median_ms=0.21, p95_ms=0.25, ...)
    ```
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None):
        if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
            raise ValueError(f"`path` must be an existing `.tflite` file. Received: path={path!r}")
        with open(path, "rb") as file:
            content = file.read()
        self._open(content, os.fspath(path), threads)

    @classmethod
    def from_bytes(cls, content: bytes, threads: int | None = None) -> "LiteRTModel":
        """Opens the content of a `.tflite` file that is not on disk; its `path` is `None`."""
        model = cls.__new__(cls)
        model._open(content, None, threads)
        return model

    def _open(self, content: bytes, path: str | None, threads: int | None) -> None:
        self.path = path
        self._content = content
        self._session = _Session(content, threads, path)
        self.inputs = self._session.inputs
        self.outputs = self._session.outputs

    def __repr__(self):
        names = [spec.name for spec in self.inputs], [spec.name for spec in self.outputs]
        return f"<LiteRTModel path={self.path!r}, inputs={names[0]}, outputs={names[1]}>"

    @property
    def float_operations(self) -> list[str]:
        """The operations that compute in float32, each once: in an int8 file, what has no kernel.

        Where a file is to run on integer-only hardware, this list must be empty.
        """
        return sorted(float_calls(self._content))

    def predict(self, x: Any, batch_size: int = 32) -> np.ndarray | dict[str, np.ndarray]:
        """Computes the outputs for data.

        Args:
            x: An array for a single input; a list of arrays in the order of `inputs`, which is the
                Keras model's in a file of `to_litert`; a dictionary of arrays by input name; or a
                dataset of batches of these, whose labels are left aside.
            batch_size: Integer, samples per run. A file with a fixed batch size runs with its own.

        Returns:
            An array, or with several outputs a dictionary of arrays by output name.

        Raises:
            ValueError: If the data do not fit the inputs.
        """
        _require_count("batch_size", batch_size)
        if datasets.is_dataset(x):
            x, _ = datasets.take(x, what="x")
        outputs = self._session.run(bind(x, self.inputs), batch_size)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def evaluate(
        self, x: Any, y: Any = None, metrics: Any = ("accuracy",), batch_size: int = 32
    ) -> dict[str, float]:
        """Computes Keras metrics on labelled data.

        Args:
            x: Inputs as in `predict`, or a dataset of `(x, y)` or `(x, y, sample_weight)` batches.
            y: The labels, if `x` is not a dataset; with several outputs a dictionary by name.
            metrics: A Keras metric, a metric's name, or a list of them; `"accuracy"` picks the
                binary, categorical or sparse one by the shapes, as `compile` does. With several
                outputs a dictionary of these by output name.
            batch_size: Integer, samples per run.

        Returns:
            A dictionary from a metric's name to its value; with several outputs the name is
            `"<output>_<metric>"`.

        Raises:
            ValueError: If labels are missing, or data, labels or metrics do not fit the model.
        """
        _require_count("batch_size", batch_size)
        if datasets.is_dataset(x):
            if y is not None:
                raise ValueError("A dataset brings its labels. Received: a dataset and `y`")
            datasets.require_finite(x, "x")
            source = datasets.batches(x)
        else:
            source = iter([(x, y, None)])
        meters: dict[str, list[keras.Metric]] = {}
        names = [spec.name for spec in self.outputs]
        for inputs, labels, weights in source:
            if labels is None:
                raise ValueError("`evaluate` needs labels, `y`. Received: y=None")
            outputs = self._session.run(bind(inputs, self.inputs), batch_size)
            truth = _by_output(labels, names, "y")
            weight = _by_output(weights, names, "sample_weight", several=True)
            for name, predicted in outputs.items():
                true = np.asarray(truth[name])
                if len(true) != len(predicted):
                    raise ValueError(
                        f"`y` must have one label for each sample. Received: {len(predicted)} "
                        f"samples and {len(true)} labels"
                    )
                if name not in meters:
                    wanted = _by_output(metrics, names, "metrics")[name]
                    meters[name] = [_metric(m, true, predicted) for m in _as_list(wanted)]
                for meter in meters[name]:
                    meter.update_state(true, predicted, sample_weight=weight[name])
        if not meters:
            raise ValueError(f"`x` is empty. Received: x={x!r}")
        prefix = {name: "" if len(names) == 1 else f"{name}_" for name in names}
        return {
            f"{prefix[name]}{meter.name}": float(keras.ops.convert_to_numpy(meter.result()))
            for name in meters
            for meter in meters[name]
        }

    def benchmark(
        self,
        runs: int = 50,
        warmup: int = 5,
        threads: int = 1,
        batch_size: int = 1,
        x: Any = None,
    ) -> Latency:
        """Measures the time of one run of the interpreter, without copying data in and out.

        Args:
            runs: Integer, how many runs are measured.
            warmup: Integer, how many runs go before them.
            threads: Integer, the interpreter's threads.
            batch_size: Integer, samples per run.
            x: Data to run on, as in `predict`; its first `batch_size` samples are used. Random by
                default, and needed where an input's size is not fixed.

        Returns:
            A `Latency` with `median_ms` and `p95_ms`, in milliseconds.

        Raises:
            ValueError: If a number is out of range or the data do not fit.
        """
        _require_count("runs", runs)
        _require_count("warmup", warmup, least=0)
        call = self.timed_call(threads, batch_size, x)
        (times,) = interleaved_times([call], runs, warmup)
        return Latency.of(times, threads, self.fixed_batch or batch_size)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size of a file that runs with no other, else `None`."""
        return self._session.fixed_batch

    def timed_call(self, threads: int, batch_size: int, x: Any = None) -> Callable[[], None]:
        """Returns a function that runs the interpreter once, on data that are already in place."""
        _require_count("threads", threads)
        _require_count("batch_size", batch_size)
        arrays = random_inputs(self.inputs, batch_size) if x is None else bind(x, self.inputs)
        samples = min(len(array) for array in arrays.values())
        size = self.fixed_batch or batch_size
        if samples < size:
            raise ValueError(
                f"`x` must have at least {size} sample(s), those of one run. "
                f"Received: {samples} sample(s)"
            )
        session = _Session(self._content, threads, self.path)
        session.load({name: array[:size] for name, array in arrays.items()})
        return session.invoke


def float_calls(content: bytes) -> dict[str, list[str]]:
    """Returns the operations of a `.tflite` file that compute in float32.

    Args:
        content: The bytes of the file.

    Returns:
        A dictionary from an operation's type to the names of what its calls return.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    file = schema.Model.GetRootAs(content, 0)
    found: dict[str, list[str]] = {}
    for graph in (file.Subgraphs(i) for i in range(file.SubgraphsLength())):
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            code = file.OperatorCodes(operator.OpcodeIndex())
            name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            tensors = [graph.Tensors(i) for i in operator.OutputsAsNumpy()]
            made = [t.Name().decode() for t in tensors if t.Type() == schema.TensorType.FLOAT32]
            if made and name != "DEQUANTIZE":
                found.setdefault(name, []).extend(made)
    return found


def has_sparse_weights(content: bytes) -> bool:
    """Tells whether a `.tflite` file holds a tensor without its zeros."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(content, 0)
    graphs = [file.Subgraphs(i) for i in range(file.SubgraphsLength())]
    return any(g.Tensors(i).Sparsity() for g in graphs for i in range(g.TensorsLength()))


class _Session:
    """One interpreter: data in by name, quantized where the file wants it, and out by name."""

    def __init__(self, content: bytes, threads: int | None, path: str | None):
        from ai_edge_litert.interpreter import Interpreter

        try:
            with quiet():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"The LiteRT interpreter cannot run this file: {error} Received: path={path!r}"
            ) from error
        names = self._signature_names()
        self._in = self._interpreter.get_input_details()
        self._out = self._interpreter.get_output_details()
        self.inputs = [_spec(detail, names) for detail in self._in]
        self.outputs = [_spec(detail, names) for detail in self._out]
        self.fixed_batch = self.inputs[0].shape[0] if self.inputs[0].shape else None

    def _signature_names(self) -> dict[int, str]:
        if not self._interpreter.get_signature_list():
            return {}
        runner = self._interpreter.get_signature_runner()
        details = {**runner.get_output_details(), **runner.get_input_details()}
        return {detail["index"]: name for name, detail in details.items()}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Puts one batch in place."""
        resized = False
        for spec, detail in zip(self.inputs, self._in, strict=True):
            if tuple(detail["shape"]) != arrays[spec.name].shape:
                self._interpreter.resize_tensor_input(detail["index"], arrays[spec.name].shape)
                resized = True
        if resized:
            with quiet():
                self._interpreter.allocate_tensors()
            self._in = self._interpreter.get_input_details()
        for spec, detail in zip(self.inputs, self._in, strict=True):
            self._interpreter.set_tensor(detail["index"], _quantize(arrays[spec.name], detail))

    def invoke(self) -> None:
        """Runs the file once on what is in place."""
        self._interpreter.invoke()

    def run(self, arrays: dict[str, np.ndarray], batch_size: int) -> dict[str, np.ndarray]:
        """Runs the file over all samples, batch by batch."""
        samples = len(next(iter(arrays.values())))
        size = self.fixed_batch or batch_size
        parts: dict[str, list[np.ndarray]] = {spec.name: [] for spec in self.outputs}
        for start in range(0, samples, size):
            batch = {name: array[start : start + size] for name, array in arrays.items()}
            count = len(next(iter(batch.values())))
            if self.fixed_batch and count < size:
                batch = {
                    n: np.concatenate([a, a[-1:].repeat(size - count, 0)]) for n, a in batch.items()
                }
            self.load(batch)
            self.invoke()
            for spec, detail in zip(self.outputs, self._out, strict=True):
                value = _dequantize(self._interpreter.get_tensor(detail["index"]), detail)
                parts[spec.name].append(value[:count])
        return {name: np.concatenate(values) for name, values in parts.items()}


def _spec(detail: dict, names: dict[int, str]) -> TensorSpec:
    shape = detail.get("shape_signature", detail["shape"])
    dtype = np.dtype(detail["dtype"]).name
    if _scale(detail) is not None:
        dtype = "float32"
    name = names.get(detail["index"], file_name(detail["name"]))
    return TensorSpec(name, tuple(None if d < 0 else int(d) for d in shape), dtype)


def _scale(detail: dict) -> tuple[float, int] | None:
    scale, zero_point = detail["quantization"]
    return (scale, zero_point) if scale else None


def _quantize(array: np.ndarray, detail: dict) -> np.ndarray:
    if (parameters := _scale(detail)) is None:
        return array
    scale, zero_point = parameters
    limits = np.iinfo(detail["dtype"])
    levels = np.rint(array / scale) + zero_point
    return np.clip(levels, limits.min, limits.max).astype(detail["dtype"])


def _dequantize(array: np.ndarray, detail: dict) -> np.ndarray:
    if (parameters := _scale(detail)) is None:
        return array
    scale, zero_point = parameters
    return (array.astype("float32") - zero_point) * np.float32(scale)


def _require_count(name: str, value: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}"
        )


def _as_list(metrics: Any) -> list:
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def _by_output(value: Any, names: list[str], what: str, several: bool = False) -> dict[str, Any]:
    """Gives each output its part; one value may serve `several` outputs at once."""
    if isinstance(value, dict):
        given = {file_name(str(key)): part for key, part in value.items()}
        if sorted(given) != sorted(names):
            raise ValueError(
                f"`{what}` must have one entry for each output, {names}. Received: {list(value)}"
            )
        return given
    if len(names) > 1 and not several:
        raise ValueError(
            f"The model has the outputs {names}; `{what}` must be a dictionary by output name. "
            f"Received: a {type(value).__name__}"
        )
    return dict.fromkeys(names, value)


def _metric(metric: Any, true: np.ndarray, predicted: np.ndarray) -> keras.Metric:
    if metric in ("accuracy", "acc"):
        if predicted.shape[-1] == 1:
            return keras.metrics.BinaryAccuracy(name=metric)
        if true.shape == predicted.shape:
            return keras.metrics.CategoricalAccuracy(name=metric)
        return keras.metrics.SparseCategoricalAccuracy(name=metric)
    found = keras.metrics.get(metric)
    if not isinstance(found, keras.Metric):
        found = keras.metrics.MeanMetricWrapper(found, name=getattr(found, "__name__", "metric"))
    found.reset_state()
    return found
