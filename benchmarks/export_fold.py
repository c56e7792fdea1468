"""What folding BatchNorms before the conversion changes that the converter does not do itself.

Operations, bytes, latency and error of `.tflite` files of nets with random weights, converted as
they are and after `fold_batch_norm`. The last line is one file that is loaded twice: by so much two
latencies differ that are the same.

Usage: KERAS_BACKEND=tensorflow python benchmarks/export_fold.py
"""

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from keras_optkit.compression.export.agreement import relative_error
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.measure import interleaved_times
from keras_optkit.compression.export.signature import input_specs, output_specs
from keras_optkit.compression.export.traced import to_bytes
from keras_optkit.normalization.fold_batch_norm import fold_batch_norm

RUNS = 100


def nets() -> dict[str, keras.Model]:
    """Returns nets with norms at several places."""

    def conv(*stack):
        end = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
        return keras.Sequential([keras.Input((32, 32, 3)), *stack, *end])

    def dense(*stack):
        return keras.Sequential([keras.Input((256,)), *stack, layers.Dense(10)])

    norm, relu = layers.BatchNormalization, layers.ReLU
    widths = (32, 32, 64)
    return {
        "conv, norm, relu": conv(
            *(
                part
                for w in widths
                for part in (layers.Conv2D(w, 3, use_bias=False), norm(), relu())
            )
        ),
        "depthwise, norm": conv(
            layers.Conv2D(32, 1), norm(), layers.DepthwiseConv2D(3, use_bias=False), norm()
        ),
        "transposed, norm": conv(layers.Conv2DTranspose(16, 3, strides=2), norm()),
        "dense, norm, relu": dense(
            *(part for _ in range(3) for part in (layers.Dense(256), norm(), relu()))
        ),
        "dense, relu, norm": dense(
            *(part for _ in range(3) for part in (layers.Dense(256), relu(), norm()))
        ),
        "norm, conv": conv(*(part for w in widths for part in (norm(), layers.Conv2D(w, 3)))),
        "conv, relu, norm": conv(
            *(part for w in widths for part in (layers.Conv2D(w, 3), relu(), norm()))
        ),
    }


def convert(model: keras.Model, mode: str | None, x: np.ndarray) -> bytes:
    """Returns a file of a model as it is."""
    inputs, outputs = input_specs(model), output_specs(model)

    def prepare(converter):
        if mode == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: ({inputs[0].name: v[None]} for v in x)

    variables = [variable.value for variable in model.variables]
    call = lambda tensors: model(tensors[0], training=False)  # noqa: E731
    return to_bytes(call, variables, inputs, outputs, prepare)


def operations(content: bytes) -> int:
    """Returns the number of operations in a file."""
    return schema.Model.GetRootAs(content, 0).Subgraphs(0).OperatorsLength()


def main() -> None:
    """Prints the table."""
    print("Each: as it is -> folded first. Latency: median of 100 runs of one sample, in turn")
    head = f"{'operations':>13}{'bytes':>20}{'latency, ms':>20}{'error':>22}"
    print(f"{'net':20}{'file':>9}{head}")
    for name, model in nets().items():
        rng = np.random.default_rng(0)
        for weight in model.weights:
            low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.5
            weight.assign(rng.uniform(low, low + 1, weight.shape))
        x = rng.normal(size=(32, *model.input_shape[1:])).astype("float32")
        want = keras.ops.convert_to_numpy(model(x, training=False))
        for mode in (None, "int8"):
            contents = [convert(m, mode, x) for m in (model, fold_batch_norm(model))]
            files = [LiteRTModel.from_bytes(content) for content in contents]
            calls = [file.timed_call(1, 1, x) for file in files]
            a, b = (np.median(t) for t in interleaved_times(calls, RUNS, 5))
            errors = [relative_error([want], [f.predict(x)], centred=True) for f in files]
            counts, sizes = (list(map(f, contents)) for f in (operations, len))
            print(
                f"{name:20}{mode or 'float32':>9}{f'{counts[0]} -> {counts[1]}':>13}"
                f"{f'{sizes[0]:,} -> {sizes[1]:,}':>20}{f'{a:.4f} -> {b:.4f}':>20}"
                f"{f'{errors[0]:.1e} -> {errors[1]:.1e}':>22}",
                flush=True,
            )
    ratios = []
    for _ in range(20):
        calls = [LiteRTModel.from_bytes(contents[0]).timed_call(1, 1, x) for _ in range(2)]
        a, b = (np.median(t) for t in interleaved_times(calls, RUNS, 5))
        ratios.append(max(a / b, b / a) - 1)
    print(
        f"One file loaded twice, 20 times: medians apart by {np.median(ratios):.1%}, at most "
        f"{max(ratios):.1%}"
    )


if __name__ == "__main__":
    main()
