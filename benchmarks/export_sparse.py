"""Does the converter's sparse encoding pay? Bytes, gzip and latency of pruned nets, with it or not.

Untrained nets whose kernels are pruned by magnitude, single weights or blocks of 4 or 16 inputs of
one output, as float32 files (`quantization="sparse"`) and, made with the converter alone, as
dynamic and int8 files. "fails" means that the LiteRT interpreter does not load the file, "wrong"
that its outputs are not those of the dense file.

Usage: KERAS_BACKEND=tensorflow python benchmarks/export_sparse.py
"""

import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_optkit.compression.export.agreement import TOLERANCES, relative_error
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.measure import gzip_size, interleaved_times
from keras_optkit.compression.export.signature import input_specs, output_specs
from keras_optkit.compression.export.traced import to_bytes

RUNS = 50
PATTERNS = [(1, 0.7), (4, 0.5), (4, 0.7), (4, 0.9), (16, 0.9)]


def dense_net() -> keras.Model:
    """Returns a net of dense layers."""
    stack = [layers.Dense(512, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((512,)), *stack, layers.Dense(16)])


def conv_net() -> keras.Model:
    """Returns a net of 3x3 and 1x1 convolutions."""
    stack = [layers.Conv2D(64, size, activation="relu") for size in (3, 3, 1)]
    pool = layers.GlobalAveragePooling2D()
    return keras.Sequential([keras.Input((32, 32, 32)), *stack, pool, layers.Dense(16)])


def prune(kernel: np.ndarray, sparsity: float, block: int) -> np.ndarray:
    """Returns a kernel without its smallest blocks of inputs."""
    rows = kernel.reshape(-1, kernel.shape[-1]).T
    blocks = rows.reshape(len(rows), -1, block)
    sizes = np.abs(blocks).sum(-1, keepdims=True)
    kept = blocks * (sizes > np.quantile(sizes, sparsity))
    return kept.reshape(rows.shape).T.reshape(kernel.shape)


def convert(model: keras.Model, mode: str | None, x: np.ndarray, sparse: bool) -> bytes:
    """Returns a file, with the sparse encoding or without."""
    inputs, outputs = input_specs(model), output_specs(model)

    def prepare(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if mode else []
        if sparse:
            converter.optimizations += [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        if mode == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = lambda: ({inputs[0].name: v[None]} for v in x)

    variables = [variable.value for variable in model.variables]
    call = lambda tensors: model(tensors[0], training=False)  # noqa: E731
    return to_bytes(call, variables, inputs, outputs, prepare)


def verdict(contents: list[bytes], mode: str | None, x: np.ndarray) -> str:
    """Returns the latency of a sparse file over that of the dense one, or why there is none."""
    try:
        dense, sparse = (LiteRTModel.from_bytes(content) for content in contents)
    except ValueError:
        return "fails"
    error = relative_error([dense.predict(x)], [sparse.predict(x)], centred=False)
    if not error <= TOLERANCES[mode]:
        return "wrong"
    calls = [model.timed_call(1, 1, x) for model in (dense, sparse)]
    first, second = (np.median(times) for times in interleaved_times(calls, RUNS, 5))
    return f"{second / first:.2f}"


def main() -> None:
    """Prints the table."""
    print("Sparse file over dense file; latency: median of 50 runs of one sample, in turn")
    print(f"{'net':6}{'zeros':>7}{'block':>7}{'weights':>10}{'bytes':>8}{'gzip':>8}{'latency':>9}")
    for (name, build), (block, sparsity), mode in itertools.product(
        {"dense": dense_net, "conv": conv_net}.items(), PATTERNS, (None, "dynamic", "int8")
    ):
        keras.utils.set_random_seed(0)
        model = build()
        for layer in model.layers[:-1]:
            if layer.weights:
                kernel = keras.ops.convert_to_numpy(layer.kernel)
                layer.kernel.assign(prune(kernel, sparsity, block))
        x = np.random.default_rng(0).random((16, *model.input_shape[1:])).astype("float32")
        contents = [convert(model, mode, x, sparse) for sparse in (False, True)]
        size, packed = ([f(c) for c in contents] for f in (len, gzip_size))
        print(
            f"{name:6}{sparsity:>7.0%}{block:>7}{mode or 'float32':>10}{size[1] / size[0]:>8.2f}"
            f"{packed[1] / packed[0]:>8.2f}{verdict(contents, mode, x):>9}",
            flush=True,
        )


if __name__ == "__main__":
    main()
