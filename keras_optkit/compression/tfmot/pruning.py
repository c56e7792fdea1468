"""Pruning with TF-MOT's wrappers and callback."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit.compression.pruning.schedules import (
    ConstantSparsity,
    PolynomialDecay,
    SparsitySchedule,
)
from keras_optkit.compression.tfmot.training import Layers, Session, wrapped
from keras_optkit.core.duration import Run


def prune_low_magnitude(
    model: keras.Model,
    data: Any,
    pruning_schedule: Any = None,
    epochs: int = 1,
    batch_size: int = 32,
    validation_data: Any = None,
    layers: Layers = None,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: tuple[int, int] | None = None,
    callbacks: Sequence[Any] | None = None,
    verbose: int | str = 0,
) -> keras.Model:
    """Trains a copy of a Keras 3 model with TF-MOT's pruning, and returns it stripped.

    The model is converted to tf_keras, wrapped with TF-MOT's `PruneLowMagnitude` and trained with
    its `UpdatePruningStep`; then the weights come back. `keras_optkit.callbacks.Pruning` prunes in
    Keras 3 itself, without this way around; this is for those who need TF-MOT's own numbers.

    Args:
        model: A built and compiled Sequential or Functional Keras 3 model. It is not changed. The
            training begins with its weights, and a fresh optimizer with the settings of its own.
        data: A `tf.data.Dataset` or a `keras.utils.PyDataset` of batches `(x, y)`, or a tuple of
            arrays `(x, y)` or `(x, y, sample_weight)`.
        pruning_schedule: A schedule of TF-MOT's, or one of `keras_optkit.pruning`, whose durations
            are then understood and which TF-MOT gets one step later, for it counts the first step
            as 1. Defaults to `keras_optkit.pruning.ConstantSparsity(0.5, 0)`.
        epochs: Integer >= 1.
        batch_size: Integer >= 1, for arrays.
        validation_data: Like `data`, or `None`.
        layers: Names of the layers to prune, or a function from a layer to a boolean. Defaults to
            all that TF-MOT prunes, embeddings and recurrent kernels among them.
        block_size: TF-MOT's height and width of the blocks in matrices.
        block_pooling_type: `"AVG"` or `"MAX"`.
        sparsity_m_by_n: `(m, n)`: m zeros in each n consecutive weights.
        callbacks: Callbacks of tf_keras.
        verbose: As in `fit`. Defaults to 0.

    Returns:
        A compiled Keras 3 model of the same class, layers and names, with zeros in its kernels.

    Raises:
        ValueError: If the model, its settings, the schedule or the data can't be used; nothing has
            been done then.

    Example:

    ```python
    schedule = keras_optkit.pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step="4ep")
    sparse = keras_optkit.tfmot.prune_low_magnitude(model, (x, y), schedule, epochs=6)
    ```
    """
    session = Session(model, data, validation_data, epochs, batch_size, callbacks, verbose)
    sparsity = session.tfmot.sparsity.keras
    run = Run(epochs, session.data.batches)
    if pruning_schedule is None:
        pruning_schedule = ConstantSparsity(0.5, 0)
    schedule = _tfmot_schedule(pruning_schedule, run, sparsity)
    _require_effect(schedule, run)
    if block_pooling_type not in ("AVG", "MAX"):
        raise ValueError(
            "`block_pooling_type` must be 'AVG' or 'MAX'. "
            f"Received: block_pooling_type={block_pooling_type!r}"
        )
    chosen = session.chosen(layers, _prunable(session), "pruned")

    def wrap(layer):
        if id(layer) not in chosen:
            return layer
        return sparsity.prune_low_magnitude(
            layer,
            pruning_schedule=schedule,
            block_size=block_size,
            block_pooling_type=block_pooling_type,
            sparsity_m_by_n=sparsity_m_by_n,
        )

    pruned = wrapped(session.model, wrap, session.tf_keras)
    session.fit(pruned, [sparsity.UpdatePruningStep()])
    return session.result(sparsity.strip_pruning(pruned))


def _prunable(session: Session) -> dict[int, Any]:
    from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import (
        PruneRegistry,
    )

    found = {}
    for _, layer in session.conversion.pairs:
        if not PruneRegistry.supports(layer):
            continue
        is_recurrent = PruneRegistry._is_rnn_layer(layer)
        if is_recurrent or PruneRegistry._weight_names(layer):
            found[id(layer)] = layer
    return found


def _tfmot_schedule(schedule: Any, run: Run, sparsity: Any) -> Any:
    if isinstance(schedule, sparsity.PruningSchedule):
        return schedule
    counterparts = {
        ConstantSparsity: sparsity.ConstantSparsity,
        PolynomialDecay: sparsity.PolynomialDecay,
    }
    if type(schedule) not in counterparts:
        known = [f"keras_optkit.pruning.{cls.__name__}" for cls in counterparts]
        what = "schedule" if isinstance(schedule, SparsitySchedule) else "value"
        raise ValueError(
            f"`pruning_schedule` must be a schedule of TF-MOT's, or one of {known}; TF-MOT has no "
            f"counterpart of this {what}. Received: pruning_schedule={schedule!r}"
        )
    config = schedule.resolve(run).get_config()
    for name in ("begin_step", "end_step"):
        # We count the updates made before, from 0; TF-MOT counts the first step as 1.
        if config[name] != -1:
            config[name] = int(config[name]) + 1
    return counterparts[type(schedule)](**config)


def _require_effect(schedule: Any, run: Run) -> None:
    # TF-MOT's `ConstantSparsity(0.5, 0)` prunes for the first time at step 100, and a short run
    # would end as dense as it began, without a word.
    begin, frequency = (getattr(schedule, name, None) for name in ("begin_step", "frequency"))
    if run.steps is None or begin is None or not frequency:
        return
    first = begin if begin >= 1 else begin + frequency
    if first > run.steps:
        raise ValueError(
            f"The schedule prunes at TF-MOT's step {first} for the first time, and the run has "
            f"{run.steps} steps. Let it begin earlier, lower its `frequency`, or train longer. "
            f"Received: begin_step={begin}, frequency={frequency}, TF-MOT's steps begin with 1"
        )
