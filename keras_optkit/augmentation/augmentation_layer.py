"""The base of every augmentation layer: what goes in, what comes out, and where it may run."""

import threading
from typing import Any

import keras
import numpy as np

from keras_optkit.augmentation.backend import (
    compiled_for_cpu,
    first_time,
    is_concrete,
    is_eager_on_cpu,
    is_outermost,
    is_tensorflow,
    on_the_host,
    ops_for,
    uniform,
    xla_pays,
)
from keras_optkit.augmentation.bounding_boxes import check_boxes, check_format, move_boxes
from keras_optkit.augmentation.host import (
    apply_on_host,
    apply_on_host_eagerly,
    apply_on_host_from_graph,
)
from keras_optkit.augmentation.inputs import (
    FLOATS,
    as_batch,
    check_images,
    check_keys,
    check_masks,
    is_uint8,
    sizes,
    static_shape,
)
from keras_optkit.augmentation.stages import Stage, apply, fuse
from keras_optkit.augmentation.value_range import (
    check_in_graph,
    check_value_range,
    describe,
    in_range,
    poisoned,
)

# A layer can't have a lock of its own and be copied.
_SAMPLING = threading.Lock()
# From this many pixels on, changing colors costs more than the way to the host engine and back.
_LARGE = 128 * 128


class AugmentationLayer(keras.layers.Layer):
    """Augments images, each in its own way, during training.

    A subclass says how to draw a table of parameters with one row per image (`sample`), and which
    stages a table turns into (`stages`). Instead of the latter it may say what a table does to
    images (`augment_images`) and to masks (`augment_masks`), both of which it gets as batches with
    the channels last. It may also override what happens to images in training and inference alike
    (`finish_images`).

    A layer may be called on:

    - a batch of images of shape (batch, height, width, channels), or one image of shape (height,
      width, channels), with the channels before the height if `data_format="channels_first"`,
      of data type uint8 or float;
    - a dictionary with `"images"`, and optionally `"labels"`, which pass through,
      `"segmentation_masks"` of any data type, of shape (batch, height, width) or that of the
      images with any number of channels, and `"bounding_boxes"`, as Keras' own layers take them: a
      dictionary with `"boxes"` of shape (batch, boxes, 4) and `"labels"` of shape (batch, boxes);
    - either of these and more arguments, such as labels, which pass through: the layer then
      returns a tuple. So `dataset.map(layer)` works on a `tf.data.Dataset` of (images, labels).

    `training=True` augments and `training=False` does not. Without `training`, a layer called by
    itself augments, in `tf.data` too, as Keras' own preprocessing layers do. Inside a model it
    follows the model, and does not augment where the model isn't told to train either (Keras' own
    do), so `evaluate`, `predict`, `model(x)` and an exported model leave images as they are.

    Boxes come out in float32. In training they move with what they show, a box that was turned
    becomes the smallest upright box around it, and boxes are cut off at the edge of the image. The
    label of a box of which nothing is left becomes -1, as in Keras. Boxes with negative labels are
    padding, and stay as they are.

    Float images are checked once: they must be finite and in `value_range`. A layer that is called
    by itself raises at its first call, and in a `tf.data` pipeline at the first element, as
    TensorFlow's `InvalidArgumentError`. In the compiled step of a model nothing can raise: there a
    layer that has a `value_range` turns images out of it into NaN, and the loss says so.

    Args:
        seed: Integer, or `None` for a seed that differs from run to run. The state of the generator
            is saved with the model.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        value_range: Pair of numbers, the lowest and the highest value of float images, or `None`
            for a layer that needs none. Images of type uint8 are in [0, 255].
        bounding_box_format: The format of boxes, one of those of
            `keras.utils.bounding_boxes.convert_format`, or `None` if there are no boxes.
        **kwargs: `name` and `dtype`, of which the compute data type must be a float.

    Raises:
        ValueError: If an argument is not as above, or, in a call, the inputs are not.
    """

    # Whether a layer changes labels; the others leave them alone, whatever they are.
    _changes_labels = False

    def __init__(
        self,
        seed: int | None = None,
        data_format: str | None = None,
        value_range: tuple[float, float] | None = None,
        bounding_box_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.value_range = check_value_range(value_range)
        self.bounding_box_format = check_format(bounding_box_format)
        self._values_are_checked = False
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ValueError(f"`seed` must be an integer or None. Received: seed={seed!r}")
        if self.compute_dtype not in FLOATS:
            raise ValueError(
                "`dtype` must be a float type or policy; images of type uint8 are known by their "
                f"own type. Received: dtype={self.compute_dtype!r}"
            )
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.data_format = data_format or keras.config.image_data_format()
        if self.data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                "`data_format` must be 'channels_last' or 'channels_first'. "
                f"Received: data_format={data_format!r}"
            )
        # The inputs keep their types; in `tf.data` they are no tensors of the backend.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True

    @property
    def normalizes(self) -> bool:
        """Whether images come out on another scale of values, in inference too."""
        return False

    def sample(self, draw, height, width) -> dict[str, Any]:
        """Draws the parameters of a batch.

        Args:
            draw: A function from a number `n` to a float32 tensor of shape (batch, n) in [0, 1).
            height: Integer or scalar tensor, the height of the images in pixels.
            width: Integer or scalar tensor, the width of the images in pixels.

        Returns:
            A dictionary of tensors that have the batch as their first axis.
        """
        raise NotImplementedError

    def sample_inference(self, ones, height, width) -> dict[str, Any] | None:
        """Returns the table for inference, or `None` where images stay as they are.

        Args:
            ones: Float32 tensor of shape (batch,), of ones.
            height: Integer or scalar tensor, the height of the images in pixels.
            width: Integer or scalar tensor, the width of the images in pixels.
        """
        return None

    def output_size(self, height, width) -> tuple:
        """Returns the height and width of what comes out for images of a height and width."""
        return height, width

    def stages(self, table: dict[str, Any], height, width) -> list[Stage]:
        """Turns a table into the stages that are applied to images of a height and a width."""
        raise NotImplementedError

    def augment_images(self, images, table):
        """Applies a table to images of shape (batch, height, width, channels)."""
        return apply(images, self._stages_for(images, table), self.value_range)

    def augment_masks(self, masks, table):
        """Applies a table to masks of shape (batch, height, width, channels)."""
        for stage in self._stages_for(masks, table):
            masks = stage.on_masks(masks)
        return masks

    def augment_boxes(self, corners, table, height, width):
        """Applies a table to boxes of shape (batch, boxes, 4), see `to_corners`."""
        for stage in self.stages(table, height, width):
            corners = stage.on_boxes(corners)
        return corners

    def augment_labels(self, labels, table):
        """Applies a table, or none in inference, to labels, in a layer that changes these."""
        return labels

    def begin_images(self, images):
        """Does what is done to images before they are augmented."""
        return images

    def finish_images(self, images):
        """Does what is done to images in training and inference alike."""
        return images if is_uint8(images) else ops_for(images).cast(images, self.compute_dtype)

    def __call__(self, inputs, *rest, **kwargs):
        if not rest:
            return super().__call__(inputs, **kwargs)
        if isinstance(rest[0], bool):
            raise ValueError(
                "`training` must be passed by its name, as in `layer(images, training=True)`. "
                f"Received: {rest[0]!r} as the second argument"
            )
        packed, others = self._packed(inputs, rest)
        return self._unpacked(super().__call__(packed, **kwargs), inputs, others)

    def call(self, inputs, training=None):
        augment = is_outermost(self) if training is None else training
        data = self._to_tensors(inputs)
        table = self._sample(data) if augment else self._still(data)
        if self._changes_labels:
            self._check_given_labels(data, augment)
        outputs = self._apply(data, table)
        if augment:
            outputs["images"] = self._poisoned(outputs["images"], data["images"])
        return self._like(inputs, outputs)

    def map(self, dataset, num_parallel_calls: int | None = None):
        """Augments a `tf.data.Dataset`, several elements at a time.

        A seed gives the same images in each run, which `dataset.map(layer, num_parallel_calls=n)`
        can't promise: parallel calls race for the layer's generator of seeds. Here the parameters
        of one element after the other are drawn, and what takes time runs in parallel.

        Args:
            dataset: A `tf.data.Dataset` of images or batches of images, of dictionaries with
                `"images"`, or of tuples that begin with either.
            num_parallel_calls: Integer. Defaults to what `tf.data` finds best.

        Returns:
            A `tf.data.Dataset` of the same structure.

        Example:

        ```python
        layer = RandomAffine(rotation=20, horizontal_flip=True, seed=0)
        dataset = layer.map(dataset.shuffle(1000).batch(32))
        ```
        """
        import tensorflow as tf

        @tf.autograph.experimental.do_not_convert
        def sample(*element):
            inputs, *rest = element
            packed, _ = self._packed(inputs, rest)
            data = self._to_tensors(packed)
            if self._changes_labels:
                self._check_given_labels(data, True)
            return element, self._sample(data)

        @tf.autograph.experimental.do_not_convert
        def augment(element, table):
            inputs, *rest = element
            packed, others = self._packed(inputs, rest)
            data = self._to_tensors(packed)
            if self._host_pays(data, table):
                outputs = self._augment(data, table, apply_on_host_from_graph)
            else:
                outputs = self._apply(data, table)
            return self._unpacked(self._like(packed, outputs), inputs, others)

        parallel = tf.data.AUTOTUNE if num_parallel_calls is None else num_parallel_calls
        dataset = dataset.map(sample).map(augment, num_parallel_calls=parallel, deterministic=True)
        return dataset.prefetch(tf.data.AUTOTUNE)

    def host(self, images, labels=None, training: bool = True):
        """Augments NumPy arrays on the CPU, for a `keras.utils.PyDataset` or any other loop.

        Several threads may call it at the same time. Each call takes the next draws from the
        stream of the layer, so only calls from one thread give the same images in each run.

        Args:
            images: Array of shape (batch, height, width, channels) or (height, width, channels),
                with the channels first if the layer has them so, or a dictionary of arrays.
            labels: Array, the labels of the images, which the layer may change. Optional.
            training: Boolean, whether to augment.

        Returns:
            What came in, augmented, as NumPy arrays: the images, or a tuple (images, labels) if
            labels were given. The arrays that came in stay as they are.

        Example:

        ```python
        class Batches(keras.utils.PyDataset):
            def __getitem__(self, i):
                part = slice(32 * i, 32 * (i + 1))
                return layer.host(x_train[part], y_train[part])
        ```
        """
        return self._on_host(images, labels, training)[0]

    def compute_output_shape(self, input_shape):
        shape, axis = list(input_shape), -2 if self._channels_first else -3
        shape[axis : axis + 2 or None] = self.output_size(*shape[axis : axis + 2 or None])
        return tuple(shape)

    def compute_output_spec(self, inputs, training=None):
        data = inputs if isinstance(inputs, dict) else {"images": inputs}
        check_keys(data, type(self).__name__)
        self._check(data)
        dtype = keras.backend.standardize_dtype(data["images"].dtype)
        shape = self.compute_output_shape(data["images"].shape)
        data = {**data, "images": keras.KerasTensor(shape, self._output_dtype(dtype))}
        if "bounding_boxes" in data:
            boxes = data["bounding_boxes"]
            boxes = {**boxes, "boxes": keras.KerasTensor(boxes["boxes"].shape, "float32")}
            data["bounding_boxes"] = boxes
        if "labels" in data and self._changes_labels:
            shape = data["labels"].shape
            data["labels"] = keras.KerasTensor((shape[0], self._label_columns(shape)), "float32")
        return self._like(inputs, data)

    def get_config(self):
        config = {**super().get_config(), "seed": self.seed, "data_format": self.data_format}
        for name in ("value_range", "bounding_box_format"):
            if getattr(self, name) is not None:
                config[name] = getattr(self, name)
        return config

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras itself saves no generator of seeds, and a model that was loaded starts it again.
        store["seed_state"] = keras.ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        self.seed_generator.state.assign(store["seed_state"])

    def _output_dtype(self, dtype: str) -> str:
        return dtype if dtype == "uint8" else self.compute_dtype

    def _sample(self, data):
        images = data["images"]
        self._check_values(images)
        batch, height, width = self._sizes(images)
        return self.sample(
            lambda n: uniform((batch, n), self.seed_generator, images), height, width
        )

    def _packed(self, inputs, rest):
        """Returns what the layer works on of what it was called on, and what passes by."""
        if not self._changes_labels or not rest or isinstance(inputs, dict):
            return inputs, rest
        labels, *weights = rest
        if weights:
            raise ValueError(
                f"{type(self).__name__} mixes images, and the loss of a mixture can't be weighed "
                "by one sample weight. Leave the weights out. "
                f"Received: {2 + len(weights)} arguments, (images, labels, weights)"
            )
        return {"images": inputs, "labels": labels}, ()

    def _unpacked(self, outputs, inputs, others):
        """Returns outputs in the structure of what the layer was called on."""
        if isinstance(outputs, dict) and not isinstance(inputs, dict):
            return outputs["images"], outputs["labels"]
        return (outputs, *others) if others else outputs

    def _check_given_labels(self, data, augment):
        """Checks what a layer that changes labels was given to mix."""
        if "labels" in data:
            self._check_label_values(data["labels"])
        elif augment:
            raise ValueError(
                f"{type(self).__name__} mixes labels as it mixes images, so it stands in front of "
                "the model. Call it on (images, labels) or on a dictionary with 'images' and "
                "'labels', as in `layer.map(dataset)`. Received: images without labels"
            )
        if augment and len(data["images"].shape) == 3:
            raise ValueError(
                f"{type(self).__name__} mixes the images of a batch with one another; batch the "
                f"dataset first. Received: one image of shape {static_shape(data['images'])}"
            )

    def _still(self, data):
        """Returns the table for inference, or `None`."""
        images = data["images"]
        batch, height, width = self._sizes(images)
        ones = ops_for(images).ones((batch,), dtype="float32")
        return self.sample_inference(ones, height, width)

    def _check_values(self, images):
        """Checks the values of images once, where something can be raised."""
        if is_uint8(images) or self._values_are_checked:
            return
        if is_concrete(images):
            if not in_range(images, self.value_range):
                raise ValueError(describe(images, self.value_range))
            self._values_are_checked = True
        elif is_tensorflow(images) and is_outermost(self):
            first_time(self, lambda: check_in_graph(images, self.value_range))

    def _poisoned(self, outputs, images):
        """Returns NaN for outputs of images out of range, where nothing can be raised."""
        if self.value_range is None or is_uint8(images) or is_concrete(images):
            return outputs
        if is_tensorflow(images) and is_outermost(self):
            return outputs
        return poisoned(outputs, images, self.value_range)

    def _sizes(self, images):
        return sizes(images, self._channels_first)

    def _stages_for(self, images, table):
        shape = ops_for(images).shape(images)
        return fuse(self.stages(table, shape[1], shape[2]))

    def _apply(self, data, table):
        """Applies a table, through XLA where this pays and the graph around isn't compiled.

        XLA makes several times as many images per second, but compiles anew for each shape. A
        ragged last batch is worth that, images of unknown sizes are not. Where nothing is compiled,
        as on torch, stages are left to the host engine if it has less to do than they have.
        """
        images = data["images"]
        if table is not None and is_eager_on_cpu(images) and self._host_pays(data, table):
            return self._augment(data, table, apply_on_host_eagerly)
        if table is None or None in static_shape(images)[-3:] or not xla_pays(self, images):
            return self._augment(data, table)
        import tensorflow as tf

        with compiled_for_cpu():
            return tf.function(self._augment, jit_compile=True, autograph=False)(data, table)

    @property
    def _has_stages(self) -> bool:
        """Whether stages are all that a table does to images, so that the host engine can too."""
        return type(self).augment_images is AugmentationLayer.augment_images

    def _host_pays(self, data, table) -> bool:
        """Whether the host engine is the faster one where nothing is compiled but by this room."""
        in_graph = is_tensorflow(data["images"]) and not is_concrete(data["images"])
        if not self._has_stages or (in_graph and not is_uint8(data["images"])):
            return False
        if in_graph and None in static_shape(data["images"])[-3:]:
            # XLA would compile anew for each size.
            return True
        _, height, width = self._sizes(data["images"])
        stages = self.stages(table, height, width)
        small = None not in static_shape(data["images"])[-3:] and height * width < _LARGE
        if small and all(stage.local for stage in stages):
            return False
        return any(stage.cheaper_on_host for stage in stages)

    def _on_host(self, images, labels, training):
        """Returns what `host` does, and the table that was drawn."""
        rest = () if labels is None else (np.asarray(labels),)
        inputs = images if isinstance(images, dict) else np.asarray(images)
        with on_the_host():
            packed, others = self._packed(inputs, rest)
            data = self._to_tensors(packed)
            with _SAMPLING:
                table = self._sample(data) if training else self._still(data)
            if self._changes_labels:
                self._check_given_labels(data, training)
            engine = apply_on_host if self._has_stages else None
            outputs = self._like(packed, self._augment(data, table, engine))
            return self._unpacked(outputs, inputs, others), table

    def _augment(self, data, table, engine=None):
        """Applies a table, or none in inference, to tensors as they came in."""
        images, undo = as_batch(data["images"], self._channels_first)
        if table is not None:
            images = self.begin_images(images)
            if engine is None:
                images = self.augment_images(images, table)
            else:
                images = engine(images, self._stages_for(images, table), self.value_range)
        outputs = {"images": undo(self.finish_images(images))}
        if "segmentation_masks" in data:
            masks, undo = as_batch(
                data["segmentation_masks"], self._channels_first, len(data["images"].shape)
            )
            outputs["segmentation_masks"] = undo(
                masks if table is None else self.augment_masks(masks, table)
            )
        if "labels" in data:
            outputs["labels"] = self.augment_labels(data["labels"], table)
        if "bounding_boxes" in data:
            before, after = (self._sizes(x["images"])[1:] for x in (data, outputs))
            outputs["bounding_boxes"] = move_boxes(
                data["bounding_boxes"],
                self.bounding_box_format,
                before,
                after,
                None if table is None else lambda x: self.augment_boxes(x, table, *before),
            )
        return outputs

    def _to_tensors(self, inputs):
        """Returns the images and masks of the inputs in a dictionary, as tensors."""
        data = inputs if isinstance(inputs, dict) else {"images": inputs}
        check_keys(data, type(self).__name__)
        if not self._changes_labels:
            data = {key: value for key, value in data.items() if key != "labels"}
        self._check(data)
        return keras.tree.map_structure(lambda x: ops_for(x).convert_to_tensor(x), data)

    def _like(self, inputs, data):
        """Returns the images and masks in the structure of the inputs."""
        if isinstance(inputs, dict):
            return {key: data.get(key, value) for key, value in inputs.items()}
        return data["images"]

    def _check(self, data):
        """Checks what can be known of inputs without their values."""
        images = data["images"]
        check_images(images, type(self).__name__)
        if "segmentation_masks" in data:
            check_masks(data["segmentation_masks"], images, self._channels_first)
        if "bounding_boxes" in data:
            check_boxes(data["bounding_boxes"], self.bounding_box_format, len(images.shape) == 4)
        self._check_own(data)

    def _check_own(self, data):
        """Checks what only this kind of layer asks of its inputs."""

    @property
    def _channels_first(self) -> bool:
        return self.data_format == "channels_first"
