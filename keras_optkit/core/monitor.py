"""A metric that a callback watches: its name, its direction, and what counts as better."""

import math
import warnings

import keras

from keras_optkit.core.messages import did_you_mean

# Words in a metric's name that tell its direction, for names that Keras knows no direction of.
_UP = ("acc", "accuracy", "auc", "f1", "iou", "precision", "psnr", "r2", "recall", "ssim")
_DOWN = ("crossentropy", "divergence", "error", "loss", "mae", "mape", "mse", "msle", "perplexity")


class Monitor:
    """Compares the values of one metric, epoch by epoch.

    Args:
        name: String, the metric's key in the logs, for example `"val_loss"`.
        mode: String, `"min"`, `"max"`, or `"auto"` to tell it from the metric.
        min_delta: Float, the least change that counts as better. Its sign is ignored.
        relative: Boolean, whether `min_delta` is a share of the value that has to be beaten.

    Raises:
        ValueError: If `mode` is none of these, or `min_delta` is not finite.
    """

    def __init__(
        self, name: str, mode: str = "auto", min_delta: float = 0.0, relative: bool = False
    ):
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"`monitor` must be the name of a metric in the logs. Received: monitor={name!r}"
            )
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'`mode` must be "auto", "min" or "max". Received: mode={mode!r}')
        if not math.isfinite(min_delta):
            raise ValueError(f"`min_delta` must be finite. Received: min_delta={min_delta!r}")
        self.name = name
        self.mode = mode
        self.min_delta = abs(min_delta)
        self.relative = relative
        self.direction: str | None = None if mode == "auto" else mode
        self._told_missing = False

    def bind(self, model: keras.Model) -> None:
        """Checks the name against a compiled model, and settles the direction.

        A name that the model does not have may still come from another callback, which only an
        epoch can show. It is let pass where `mode` is given and no name is near it.

        Args:
            model: The compiled model that will be trained.

        Raises:
            ValueError: If the model has no such metric, or its direction cannot be told.
        """
        self._told_missing = False
        metrics = compiled_metrics(model)
        base = self.name.removeprefix("val_")
        if metrics is not None and base not in metrics:
            # Without the prefix, which would make any two names alike.
            hint = did_you_mean(base, metrics, prefix=self.name.removesuffix(base))
            if self.mode == "auto" or hint.startswith("Did you mean"):
                raise ValueError(
                    f"monitor '{self.name}' is not available. {hint} A value that another callback "
                    "adds to the logs needs `mode='min'` or `mode='max'`. "
                    f"Received: monitor={self.name!r}"
                )
        if self.mode == "auto":
            self.direction = _direction(base, (metrics or {}).get(base))
            if self.direction is None:
                raise ValueError(
                    f"Whether '{self.name}' should go up or down cannot be told from its name. "
                    f"Pass `mode='max'` or `mode='min'`. Received: monitor={self.name!r}, "
                    "mode='auto'"
                )

    def read(self, logs: dict[str, float], who: str) -> float | None:
        """Returns the value in the logs of an epoch, or `None` where there is none.

        The first epoch without one is told in a warning, unless an epoch before had it.

        Args:
            logs: The logs of the epoch.
            who: The name of the caller, for the message.
        """
        if self.name in logs:
            self._told_missing = True
            return float(logs[self.name])
        if not self._told_missing:
            self._told_missing = True
            hint = did_you_mean(self.name, logs)
            if self.name.startswith("val_"):
                hint = "It comes with `validation_data` or `validation_split`."
            warnings.warn(
                f"{who} found no '{self.name}' in this epoch; epochs without it do not count. "
                f"{hint}",
                stacklevel=3,
            )
        return None

    def better(self, value: float, reference: float | None) -> bool:
        """Tells whether a value beats a reference by more than `min_delta`; NaN never does."""
        if not math.isfinite(value):
            return False
        if reference is None:
            return True
        gain = value - reference if self.direction == "max" else reference - value
        return gain > self.min_delta * (abs(reference) if self.relative else 1)

    def reaches(self, value: float, threshold: float) -> bool:
        """Tells whether a value is at a threshold or on its good side; NaN never is."""
        return value >= threshold if self.direction == "max" else value <= threshold


def compiled_metrics(model: keras.Model) -> dict[str, object] | None:
    """Returns the metrics that a compiled model will log, before it has made a step.

    Args:
        model: The compiled model.

    Returns:
        A dictionary from the key in the logs to the metric (an object, a function, a string, or
        `None` for a loss), or `None` where a custom `train_step` may log anything.
    """
    if type(model).train_step is not keras.Model.train_step:
        return None
    found: dict[str, object] = {"loss": None}
    outputs = [name for name in getattr(model, "output_names", None) or [] if name]
    compiled = getattr(model, "_compile_metrics", None)
    for metric in model.metrics:
        if metric is not compiled:
            found[metric.name] = metric
    if compiled is not None:
        leaves = keras.tree.flatten([compiled._user_metrics, compiled._user_weighted_metrics])
        for metric in leaves:
            if metric is None:
                continue
            name = metric if isinstance(metric, str) else _name_of(metric)
            # A few of these will not occur: which metric belongs to which output is settled by
            # Keras in the first step only.
            for key in [name, f"weighted_{name}", *(f"{o}_{name}" for o in outputs)]:
                found[key] = metric
    if len(outputs) > 1:
        found.update({f"{output}_loss": None for output in outputs})
    return found


def _name_of(metric: object) -> str:
    return getattr(metric, "name", None) or getattr(metric, "__name__", type(metric).__name__)


def _direction(name: str, metric: object) -> str | None:
    if isinstance(metric, str):
        try:
            metric = keras.metrics.get(metric)
        except ValueError:
            metric = None
    known = {"up": "max", "down": "min"}.get(getattr(metric, "_direction", None))
    if known:
        return known
    words = name.lower().replace("-", "_").split("_")
    up = any(word.startswith(_UP) or word.endswith(("accuracy", "iou")) for word in words)
    down = any(word.startswith(_DOWN) or word.endswith(("loss", "error")) for word in words)
    if up == down:
        return None
    return "max" if up else "min"
