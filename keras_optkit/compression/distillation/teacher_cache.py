"""What a teacher returns for a data set, computed once and read in the input pipeline."""

import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.distillation import fingerprint
from keras_optkit.compression.distillation.cache_file import CacheFile
from keras_optkit.compression.distillation.numbered_data import numbered
from keras_optkit.compression.distillation.output_kind import check_kind
from keras_optkit.compression.distillation.rows import reader
from keras_optkit.compression.distillation.teacher import (
    load_teachers,
    output_kinds,
    preprocessors,
)
from keras_optkit.core.checks import check_count
from keras_optkit.core.console import say

# How the inputs of a batch from `dataset` are told from a student's own dictionary of inputs.
INPUTS, OUTPUTS = "student_inputs", "teacher_outputs"


class TeacherCache:
    """A teacher's outputs for each sample of a data set, computed once and kept on disk.

    A `Distiller` with a cache in the place of its teacher runs no teacher while it trains. The
    outputs are found by the number of the sample, so any order of the data is right. A cache
    belongs to one teacher and one data set: if either changes, it is computed anew. If its process
    is killed, the next one goes on where it was.

    Random augmentation needs care, since the teacher must see the very images that the student
    sees. Pass it as `augment`: each sample then has `views` fixed variants, made again from stored
    seeds, of which training draws one at a time. Augmentation anywhere else in the data is refused.

    Args:
        folder: The folder of the files; it is made. It takes
            `samples * views * outputs * size of dtype` bytes.
        teacher: A built `keras.Model`, the path of a saved one, or a list of these. The outputs of
            each are kept, and `Distiller` averages them as its `ensemble` says.
        data: An array of inputs or a tuple `(x, y)` or `(x, y, sample_weight)` of arrays, as
            for `fit`; or a `tf.data.Dataset` of single samples `(x, y)`, neither batched nor
            shuffled nor randomly augmented.
        augment: A function `augment(x, seed)` of TensorFlow operations, from one sample's inputs
            and an int32 tensor of two numbers to a variant of that sample. It gives the same one
            for the same seed, as `tf.image.stateless_random_flip_left_right(x, seed)` does.
        views: Integer >= 1, the number of variants of each sample; 1 without `augment`.
        seed: Integer, which variants they are.
        batch_size: Integer, the number of samples that the teacher sees at once.
        dtype: `"float32"`, or `"float16"` for half of the space, which is for logits: small
            probabilities would be lost.
        teacher_output: What the teacher returns: `"logits"`, `"probabilities"`, or `"auto"`, which
            finds out from its last layer.
        teacher_preprocessor: A function of `keras.ops` from a batch of the data's inputs to one of
            the teacher's. By default images of another height and width are resized, for each of
            several teachers to its own.

    Raises:
        ValueError: If the teacher is not built, or the data is batched, endless or differs from one
            pass to the next.

    Example:

    ```python
    cache = keras_optkit.distillation.TeacherCache("cache", teacher, (x, y))
    distiller = keras_optkit.distillation.Distiller(student, cache, alpha=0.9)
    distiller.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(cache.dataset(batch_size=128), epochs=10, validation_data=(x_val, y_val))
    ```

    Reference:
        Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", 2022, on
        why the views must be the same for both.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        teacher: Any,
        data: Any,
        augment: Callable[[Any, Any], Any] | None = None,
        views: int = 1,
        seed: int = 0,
        batch_size: int = 128,
        dtype: str = "float32",
        teacher_output: str = "auto",
        teacher_preprocessor: Callable[[Any], Any] | None = None,
    ):
        for name, value in [("views", views), ("batch_size", batch_size)]:
            if check_count(name, value) == 0:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}=0")
        if augment is None and views > 1:
            raise ValueError(
                "Several views of a sample need `augment`, the function that makes them. "
                f"Received: augment=None, views={views}"
            )
        if dtype not in ("float32", "float16"):
            raise ValueError(f'`dtype` must be "float32" or "float16". Received: dtype={dtype!r}')
        self._folder = folder
        self._data = numbered(data)
        self._augment, self._views, self._seed = augment, views, seed
        self._batch_size, self._dtype = batch_size, dtype
        self.teacher_output = check_kind("teacher_output", teacher_output)
        self._models = load_teachers(teacher)
        self._given_preprocessor = teacher_preprocessor
        self._preprocessors = preprocessors(
            teacher_preprocessor, self._data.input_shapes, self._models
        )
        self.outputs = [output_kinds(model, self.teacher_output) for model in self._models]
        for model, outputs in zip(self._models, self.outputs, strict=True):
            if not outputs or any(None in shape[1:] for _, shape in outputs.values()):
                raise ValueError(
                    "A cache needs to know the shapes of the teacher's outputs: build it as "
                    "`keras.Model(inputs, outputs)` or `keras.Sequential`, with inputs of fixed "
                    f"shape. Received: teacher={model!r}"
                )
            kinds = {kind for kind, _ in outputs.values()}
            if dtype == "float16" and "probabilities" in kinds:
                raise ValueError(
                    "Small probabilities are lost in float16. Leave the softmax at the end of the "
                    f'teacher out, or keep `dtype="float32"`. Received: teacher={model!r}, '
                    f"dtype={dtype!r}"
                )
        # Those of all teachers in a row, as they stand in the files.
        self._shapes = [shape for outputs in self.outputs for _, shape in outputs.values()]
        self._names = [f"output_{i}" for i in range(len(self._shapes))]
        self._file: CacheFile | None = None

    def build(self, verbose: int = 1) -> "TeacherCache":
        """Computes what is missing; `dataset` does so too.

        Args:
            verbose: 1 for a progress bar, 0 for none.

        Returns:
            The cache itself.
        """
        rows = self._data.samples * self._views
        arrays = {"checksums": ((rows,), "uint32")}
        for name, shape in zip(self._names, self._shapes, strict=True):
            arrays[name] = ((rows, *shape[1:]), self._dtype)
        self._file = CacheFile(self._folder, self._fingerprint(), arrays)
        changed = self._file.difference()
        if changed and verbose:
            say(f"TeacherCache: the {changed} changed, so the outputs are computed anew.")
        self._require_repeatable()
        done = self._file.open()
        if done < rows:
            self._fill(done, rows, verbose)
        return self

    def dataset(
        self,
        batch_size: int = 32,
        shuffle: bool | int = True,
        seed: int | None = None,
        drop_remainder: bool = False,
    ) -> Any:
        """Returns the data with the teacher's outputs, for `Distiller.fit` on any backend.

        Args:
            batch_size: Integer, the number of samples in a batch.
            shuffle: Boolean, whether each epoch has an order of its own; or the size of the buffer,
                which for a `tf.data.Dataset` is at most 10,000 samples by default.
            seed: Integer for the same orders and views in each run, or `None`.
            drop_remainder: Boolean, whether a last batch that is smaller is left out.

        Returns:
            A `tf.data.Dataset` of batches.
        """
        import tensorflow as tf

        self.build()
        data, arrays = self._data, self._data.arrays is not None
        dataset = data.indices() if arrays else data.indexed()
        if shuffle:
            size = data.samples if arrays else min(data.samples, 10_000)
            size = size if shuffle is True else check_count("shuffle", shuffle)
            dataset = dataset.shuffle(size, seed=seed)
        batches = {"batch_size": batch_size, "drop_remainder": drop_remainder}
        if self._augment is None:
            dataset = dataset.batch(**batches)
            if arrays:
                dataset = dataset.map(data.gather, tf.data.AUTOTUNE)
            dataset = dataset.map(lambda i, element: (i, tf.zeros_like(i), element))
        else:
            if arrays:
                dataset = dataset.map(data.gather, tf.data.AUTOTUNE)
            drawn = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
            dataset = tf.data.Dataset.zip(dataset, drawn)
            dataset = dataset.map(self._view, tf.data.AUTOTUNE).batch(**batches)
        count = data.samples // batch_size if drop_remainder else -(-data.samples // batch_size)
        read = reader([self._file.arrays[name] for name in self._names])
        dataset = dataset.map(functools.partial(self._join, read), tf.data.AUTOTUNE)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _view(self, indexed, number):
        index, element = indexed
        view = number % self._views
        return index, view, (self._variant(index, view, element[0]), *element[1:])

    def _variant(self, index, view, x):
        import tensorflow as tf

        if self._augment is None:
            return x
        return self._augment(x, tf.cast(tf.stack([self._seed + view, index]), "int32"))

    def _join(self, read, index, view, element):
        import tensorflow as tf

        rows = view * self._data.samples + index
        if self._data.arrays is None or self._augment is not None:
            # Otherwise the samples came by their numbers.
            inputs = tf.nest.flatten(element[0])
            rows = tf.numpy_function(self._require_same, [rows, *inputs], "int64")
            rows.set_shape(index.shape)
        values = iter([tf.cast(value, "float32") for value in read(rows)])
        answers = tuple({name: next(values) for name in outputs} for outputs in self.outputs)
        return {INPUTS: element[0], OUTPUTS: answers}, *element[1:]

    def _require_same(self, rows: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
        if not np.array_equal(fingerprint.checksums(inputs), self._file.arrays["checksums"][rows]):
            raise ValueError(
                "A sample is not the one that the teacher has seen under its number. Either the "
                "data changes from one pass to the next: shuffle by `dataset(shuffle=...)` only, "
                "and pass random augmentation as `augment`. Or it was changed since the cache was "
                f"made: then remove {str(self._file.folder)!r}, and it is computed anew."
            )
        return rows

    def _fingerprint(self) -> dict[str, Any]:
        return {
            "teacher": [fingerprint.of_model(model) for model in self._models],
            "teacher_preprocessor": fingerprint.of_function(self._given_preprocessor),
            "data": self._data.fingerprint(self._batch_size),
            "views": [self._views, self._seed, fingerprint.of_function(self._augment)],
        }

    def _inputs(self, view: int, skip: int) -> Any:
        """The inputs of one view in order, from one sample on, in batches."""
        if self._augment is None and self._data.arrays is not None:
            batches = self._data.indices().skip(skip).batch(self._batch_size)
            return batches.map(self._data.gather).map(lambda i, element: element[0])
        elements = self._data.indexed().skip(skip)
        inputs = elements.map(lambda i, element: self._variant(i, view, element[0]))
        return inputs.batch(self._batch_size)

    def _require_repeatable(self) -> None:
        # Two rounds of one iterator: two iterators under a global seed would agree by chance.
        twice = self._inputs(self._views - 1, 0).take(1).repeat(2).as_numpy_iterator()
        first, second = map(fingerprint.checksums, twice)
        if not np.array_equal(first, second):
            raise ValueError(
                "Two passes over the data gave different samples, so a cache of the teacher's "
                "outputs would be wrong. Take shuffling and random augmentation out of it: "
                "`dataset` shuffles, and `augment` makes variants from seeds that it is given. "
                f"Received: {'augment' if self._augment else 'data'} that is random"
            )

    def _fill(self, done: int, rows: int, verbose: int) -> None:
        samples = self._data.samples
        bar = keras.utils.Progbar(rows, verbose=verbose, unit_name="sample")
        if done:
            bar.update(done)
        while done < rows:
            view, skip = divmod(done, samples)
            for x in self._inputs(view, skip).as_numpy_iterator():
                values = self._run(x)
                sums = fingerprint.checksums(x)
                written = dict(zip(self._names, values, strict=True))
                self._file.write(done, {"checksums": sums, **written})
                done += len(sums)
                bar.update(done)
            if done != (view + 1) * samples:
                raise ValueError(
                    f"The data ended after {done - view * samples} samples. "
                    f"Received: data that promised {samples}"
                )

    def _run(self, x: Any) -> list[np.ndarray]:
        size = len(keras.tree.flatten(x)[0])
        # Padded, so that the last batch needs no compilation of its own.
        pad = self._batch_size - size
        x = keras.tree.map_structure(lambda a: np.concatenate([a, np.repeat(a[:1], pad, 0)]), x)
        values = []
        for model, preprocessor in zip(self._models, self._preprocessors, strict=True):
            own = x
            if preprocessor is not None:
                own = preprocessor(keras.tree.map_structure(keras.ops.convert_to_tensor, x))
                own = keras.tree.map_structure(keras.ops.convert_to_numpy, own)
            values += keras.tree.flatten(model.predict_on_batch(own))
        return [value[:size] for value in values]
