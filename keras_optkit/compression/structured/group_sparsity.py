"""The callback that brings whole channels to zero while a model trains."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.structured.group_pull import group_norms, members, pulled
from keras_optkit.compression.structured.plan import Plan
from keras_optkit.compression.structured.prune_channels import layer_names
from keras_optkit.compression.structured.rules import trace_channels
from keras_optkit.core.additions import after_update
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.duration import parse, to_steps
from keras_optkit.core.optimizer import (
    ensure_built,
    iterations,
    require_compiled,
    update_count,
)
from keras_optkit.core.optimizer import (
    members as optimizers,
)


class GroupSparsity(OptkitCallback):
    """Pulls channels to zero while a model trains, so that they can leave it afterwards.

    The channels that `keras_optkit.pruning.prune_channels` could remove are pulled as groups, each
    with all that leaves with it: the scales and shifts of the BatchNorms behind the layers that
    make the channel or, where there is none, the kernels and biases. What the loss needs holds
    against the pull; the rest ends at exact zeros, and leaves without a change of the output.

    The pull is that of an L1 penalty on the norm of each group, taken as a step of its own inside
    the compiled step, behind the optimizer's: each update makes the norm shorter by
    `learning_rate * strength * sqrt(n)`, where n is the number of norms or kernels in the group. So
    it is the same under any optimizer, as the decay of AdamW is. It grows from 0, in a straight
    line, for the model to adapt.

    When `fit` ends nothing is left but the weights. Then
    `prune_channels(model, target, criterion="gamma", allocation="global")` removes the channels,
    and some epochs of training the result without this callback win back what the pull has cost.

    Args:
        strength: Float > 0, the strength at its highest. A channel that nothing holds goes from a
            norm of 1 to zero when the learning rates of the updates times the strength add up to 1:
            in 1,000 updates at a rate of 1e-3 and a strength of 1. Adam's own steps are at most
            about the rate, so above 1 nothing holds against the pull; 0.1 to 1 is a start. Under
            plain SGD it is the factor of the penalty, 1e-5 to 1e-3 in long trainings.
        duration: A duration (`"10ep"`, `"500step"`, a share of the run, or a number of updates),
            how long the strength grows. Defaults to 0.5.
        begin_step: A duration, when it begins to. Defaults to 0.
        keep: Names of layers, or layers, whose own channels are not pulled.
        model: The model whose channels are pulled, where `fit` is called on another that holds it,
            such as the student of a `Distiller`. Defaults to the model that is fitted.

    Raises:
        ValueError: Before the first step and with the model unchanged, if an argument is not as
            above, the model is not compiled, not built or subclassed, no channel may leave, or
            the pull would begin behind the end of the run.

    The share of channels (those that leave together count once) that are zero is put into the logs
    as `"group_sparsity"`.

    Example:

    ```python
    pull = keras_optkit.callbacks.GroupSparsity(0.2, duration="5ep")
    model.fit(x, y, epochs=10, callbacks=[pull])
    small = keras_optkit.pruning.prune_channels(
        model, 0.5, "gamma", of="flops", allocation="global"
    )
    ```

    Reference:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017, for
        the pull on the scales; Wang et al., "Neural Pruning via Growing Regularization", 2021, for
        its growth; Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, for groups.
    """

    def __init__(
        self,
        strength: float,
        duration: int | float | str = 0.5,
        begin_step: int | float | str = 0,
        keep: Sequence[str | keras.layers.Layer] = (),
        model: keras.Model | None = None,
    ):
        super().__init__()
        number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
        if not number or not 0 < strength < math.inf:
            raise ValueError(
                f"`strength` must be a number greater than 0. Received: strength={strength!r}"
            )
        parse(duration, "duration")
        parse(begin_step, "begin_step")
        self.strength = float(strength)
        self.duration = duration
        self.begin_step = begin_step
        self.keep = keep
        self.source = model

    def _install(self, epoch, state):
        name = type(self).__name__
        self._optimizer = require_compiled(self.model, name)
        self._begin, self._length = self._steps()
        model = self.source or self.model
        try:
            plan = Plan(trace_channels(model, layer_names(self.keep, model)))
        except ValueError as error:
            raise ValueError(
                f"`{name}` cannot follow the channels of this model. {error} Where `fit` is called "
                "on a model that holds the one to pull, pass that one as `model=`."
            ) from error
        if not plan.groups:
            raise ValueError(
                "No channel of this model may leave, so there is none to pull. "
                f"Received: model={model.name!r}, keep={self.keep!r}"
            )
        self._members, makers = members(plan)
        trained = {id(variable) for variable in self.model.trainable_variables}
        self._members = [m for m in self._members if id(m.variable) in trained]
        if not self._members:
            raise ValueError(
                "What makes the channels that may leave is not trained by this `fit`. Received: "
                f"model={model.name!r}, fitted on {self.model.name!r}"
            )
        ensure_built(self.model, name)
        self._start = self._first_update(epoch, state)
        self._variables = [member.variable for member in self._members]
        self._axes = [member.axis for member in self._members]
        self._groups = [ops.convert_to_tensor(m.groups, "int32") for m in self._members]
        self._pulled = np.zeros(len(makers) + 1, bool)
        for member in self._members:
            self._pulled[member.groups] = True
        self._pulled = self._pulled[:-1]
        self._weights = ops.convert_to_tensor(np.sqrt(makers), "float32")
        self._holders = self._find_holders(len(makers))
        after_update(self._optimizer, self._pull, self._fit_scope)

    def _steps(self) -> tuple[int, int]:
        steps = self.run.steps
        begin = to_steps(self.begin_step, self.run, "begin_step")
        length = to_steps(self.duration, self.run, "duration")
        if steps is not None and begin >= steps:
            raise ValueError(
                f"The pull would begin at step {begin}, and this fit has {steps} steps. "
                f"Received: begin_step={self.begin_step!r}"
            )
        if steps is not None and begin + length > steps:
            warnings.warn(
                f"The pull reaches its full strength at step {begin + length}, and this fit has "
                f"{steps} steps. Received: duration={self.duration!r}",
                stacklevel=2,
            )
        return begin, length

    def _find_holders(self, count: int) -> list[tuple[keras.optimizers.Optimizer, Any]]:
        """Returns the optimizers that update members, and which groups take each one's rate."""
        found = []
        left = np.ones(count + 1, bool)
        for optimizer in optimizers(self._optimizer):
            held = np.zeros(count + 1, bool)
            for member in self._members:
                if optimizer._var_key(member.variable) in optimizer._trainable_variables_indices:
                    held[member.groups] = True
            held &= left
            left &= ~held
            if held[:-1].any():
                found.append((optimizer, ops.convert_to_tensor(held[:-1], "float32")))
        return found

    def _pull(self) -> None:
        """Makes the norm of each group shorter, behind each update."""
        optimizer = optimizers(self._optimizer)[0]
        made = ops.cast(update_count(self._optimizer), "float32") - float(self._start)
        grown = ops.clip((made - float(self._begin)) / max(self._length, 1), 0.0, 1.0)
        if optimizer.gradient_accumulation_steps:
            # Batches that only add to the gradient come here, too.
            last = ops.equal(optimizer._iterations % optimizer.gradient_accumulation_steps, 0)
            grown = grown * ops.cast(last, "float32")
        # The rate is that of the next update, as this one is counted already.
        rates = sum(
            ops.cast(holder._get_current_learning_rate(), "float32") * held
            for holder, held in self._holders
        )
        pull = self.strength * grown * rates * self._weights
        values = [ops.convert_to_tensor(variable) for variable in self._variables]
        results = pulled(values, self._axes, self._groups, pull)
        for variable, result in zip(self._variables, results, strict=True):
            variable.assign(result)

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        values = [ops.convert_to_tensor(variable) for variable in self._variables]
        norms = group_norms(values, self._axes, self._groups, len(self._pulled))
        zero = ops.convert_to_numpy(norms)[:-1][self._pulled] == 0
        logs["group_sparsity"] = float(zero.mean())

    @property
    def settled(self) -> bool:
        """Whether the pull has its full strength."""
        return iterations(self._optimizer) - self._start >= self._begin + self._length

    def get_state(self) -> dict[str, Any]:
        """Returns the update at which the run started."""
        return {"start": self._start}
