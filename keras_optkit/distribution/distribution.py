"""What a training is spread over, and what follows from it for the code around it."""

import contextlib
import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_optkit.core.checks import check_count
from keras_optkit.core.processes import Processes


class Distribution:
    """Where a model trains. `auto`, `data_parallel` and `multi_worker` make it.

    On one device it changes nothing, so that code needs no branch. On several, each takes a part
    of every batch, and loss, metrics and weights are those of one device that has the whole batch.

    Args:
        devices: List of strings such as `"gpu:0"`, what it trains on in this process.
        group: The `Processes` that train together, each on as many devices. `None` is this one
            alone.

    Example:

    >>> distribution = Distribution(["cpu:0"])
    >>> with distribution.scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ...     model.compile("sgd", "mse")
    >>> distribution.num_devices, distribution.is_chief
    (1, True)
    >>> print(distribution.describe())
    1 device: cpu:0
    Engine: none, as one device needs none
    """

    engine = "none, as one device needs none"

    def __init__(self, devices: Sequence[str], group: Processes | None = None):
        self.devices = list(devices)
        self.group = Processes() if group is None else group

    @property
    def num_devices(self) -> int:
        """How many devices share a batch, in all processes together."""
        return len(self.devices) * self.num_processes

    @property
    def num_processes(self) -> int:
        """How many processes train together."""
        return self.group.count

    @property
    def process_index(self) -> int:
        """Which of the processes this one is, counted from 0."""
        return self.group.index

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes files. One process alone is."""
        return self.group.is_chief

    def scope(self) -> contextlib.AbstractContextManager["Distribution"]:
        """Returns the context in which the model is built and compiled.

        `fit`, `evaluate` and `predict` may be called inside or outside of it.
        """
        return contextlib.nullcontext(self)

    def global_batch_size(self, per_device: int) -> int:
        """Returns the batch size for `fit` and datasets: that of all devices together.

        Args:
            per_device: Integer >= 1, how many samples a device takes at once.

        Raises:
            ValueError: If it is not a whole number >= 1.

        Example:

        >>> Distribution(["gpu:0", "gpu:1"]).global_batch_size(32)
        64
        """
        if check_count("per_device", per_device) == 0:
            raise ValueError("`per_device` must be an integer >= 1. Received: per_device=0")
        return int(per_device) * self.num_devices

    def scale_learning_rate(self, rate: float, rule: str | None = "linear") -> float:
        """Returns the learning rate for the batch of all devices, from that for one device's.

        Args:
            rate: Float > 0, the rate that suits the batch size of one device.
            rule: `"linear"`, times the number of devices, which goes with SGD and a warmup;
                `"sqrt"`, times its square root, which goes with Adam; or `None`, as it is.

        Raises:
            ValueError: If the rate is not a number > 0 or the rule not one of those.

        Example:

        >>> Distribution(["gpu:0", "gpu:1"]).scale_learning_rate(0.1)
        0.2

        Reference:
            Goyal et al., "Accurate, Large Minibatch SGD", 2017 (linear); Malladi et al., "On the
            SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022 (the square root).
        """
        if not isinstance(rate, numbers.Real) or not 0 < rate < math.inf:
            raise ValueError(
                "`rate` must be a number > 0. For a schedule, scale the rates that it is made of. "
                f"Received: rate={rate!r}"
            )
        rules = {"linear": self.num_devices, "sqrt": math.sqrt(self.num_devices), None: 1}
        if rule not in rules:
            raise ValueError(f"`rule` must be 'linear', 'sqrt' or None. Received: rule={rule!r}")
        return float(rate) * rules[rule]

    def describe(self) -> str:
        """Returns a few lines on the devices and on what shares the work."""
        plural = "" if self.num_devices == 1 else "s"
        devices = f"{self.num_devices} device{plural}: {', '.join(self.devices)}"
        if self.num_processes > 1:
            chief = ", the chief" if self.is_chief else ""
            devices += (
                f" in each of {self.num_processes} processes\n"
                f"This process: {self.process_index}{chief}"
            )
        return f"{devices}\nEngine: {self.engine}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} devices={self.devices}>"

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares a model for a call of one of its methods, and puts it back afterwards.

        Args:
            model: The model, compiled in the scope.
            method: String, the name of the method, such as `"fit"`.
            arguments: The arguments of the call, by name.
        """
        yield

    def check_placed(self, model: keras.Model) -> None:
        """Raises if a compiled model, or a part of it, was not made in the scope."""
