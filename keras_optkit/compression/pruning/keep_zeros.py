"""A later `fit` that keeps the zeros of an earlier one."""

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.pruning.masked_training import MaskedTraining
from keras_optkit.compression.pruning.select import Select, select_kernels


def keep_zeros(model: keras.Model, select: Select | None = None) -> "KeepZeros":
    """Returns a callback with which `fit` trains the other weights and keeps the zeros that are.

    The zeros are those that the model has when `fit` begins. They hold inside the compiled step
    after every update, as with `Pruning`, and nothing of it stays on the model afterwards. A kernel
    that is zero altogether was not pruned, but starts so, and is left free.

    Args:
        model: The pruned model, built.
        select: Which weights, see `keras_optkit.callbacks.Pruning`.

    Returns:
        A callback for `model.fit`.

    Raises:
        ValueError: If the model is not built, nothing is selected, or no kernel has zeros.

    Example:

    ```python
    model.fit(x, y, callbacks=[keras_optkit.pruning.keep_zeros(model)])
    ```
    """
    callback = KeepZeros(select)
    callback._prepare(select_kernels(model, select))
    return callback


class KeepZeros(MaskedTraining):
    """Keeps weights that are zero when `fit` begins at zero; made by `keep_zeros(model)`.

    Args:
        select: See `keras_optkit.callbacks.Pruning`.
        log_layers: Boolean, whether to log the sparsity of each kernel.
    """

    _starts_dense = False

    def __init__(self, select: Select | None = None, log_layers: bool = False):
        super().__init__(select, log_layers)

    def _prepare(self, kernels):
        sparse = [kernel for kernel in kernels if _is_sparse(kernel)]
        if not sparse:
            raise ValueError(
                "There are no zeros to keep: none of the selected kernels has any. Received: "
                f"select={self.select!r}, which takes {', '.join(k.path for k in kernels)}"
            )
        return sparse


def _is_sparse(kernel: keras.Variable) -> bool:
    nonzero = np.count_nonzero(ops.convert_to_numpy(kernel))
    return 0 < nonzero < np.prod(kernel.shape)
