"""The weights of the best epoch, kept in memory or in a file."""

import os
import pathlib
from typing import Any

import keras

from keras_optkit.core.optimizer import members, require_compiled
from keras_optkit.core.processes import processes
from keras_optkit.core.weights import weights_at_end


class BestWeights:
    """Keeps one set of a model's weights, and gives it back.

    Args:
        path: Where to keep them: `None` for memory; or a file that ends in `.weights.h5` or
            `.keras`, which is replaced in one go and can be loaded by Keras at any time.
        optimizer: Boolean, whether the optimizer's state belongs to them.

    Raises:
        ValueError: If the path ends in something else, or is a folder.
    """

    def __init__(self, path: str | os.PathLike | None = None, optimizer: bool = False):
        self.path = None if path is None else pathlib.Path(path)
        self.optimizer = optimizer
        if self.path is not None:
            if not self.path.name.endswith((".weights.h5", ".keras")):
                raise ValueError(
                    'A file for the best weights must end in ".weights.h5" or ".keras". '
                    f"Received: {str(path)!r}"
                )
            if self.path.is_dir():
                raise ValueError(
                    f"The path for the best weights is a folder. Received: {str(path)!r}"
                )
        self.reset()

    def reset(self) -> None:
        """Forgets what was kept; a file stays."""
        self.weights: list | None = None
        self.optimizer_state: list | None = None
        self.file: pathlib.Path | None = None

    @property
    def kept(self) -> bool:
        """Whether there is something to restore."""
        return self.weights is not None or self.file is not None

    def keep(self, model: keras.Model) -> None:
        """Keeps the weights that `fit` would end with if it ended now."""
        weights = weights_at_end(model)
        if self.path is not None and processes().is_chief:
            self._write(model, weights)
            self.reset()
            self.file = self.path
            return
        self.reset()
        self.weights = weights
        if self.optimizer:
            self.optimizer_state = _optimizer_state(model)

    def restore(self, model: keras.Model) -> None:
        """Gives the model what was kept.

        Raises:
            FileNotFoundError: If the file is gone.
        """
        if self.file is None:
            model.set_weights(self.weights)
            if self.optimizer_state is not None:
                _set_optimizer_state(model, self.optimizer_state)
            return
        self._require_file()
        # Keras' files hold the optimizer's state, which it loads too.
        before = None if self.optimizer else _optimizer_state(model)
        model.load_weights(self.file)
        if before is not None:
            _set_optimizer_state(model, before)

    def _require_file(self) -> None:
        if not self.file.exists():
            raise FileNotFoundError(
                f"The file with the best weights is gone. Received: {str(self.file)!r}"
            )

    def _write(self, model: keras.Model, weights: list) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        suffix = ".weights.h5" if self.path.name.endswith(".weights.h5") else ".keras"
        partial = self.path.with_name(f".{self.path.name.removesuffix(suffix)}.partial{suffix}")
        raw = model.get_weights()
        try:
            model.set_weights(weights)
            (model.save_weights if suffix == ".weights.h5" else model.save)(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        finally:
            model.set_weights(raw)
            partial.unlink(missing_ok=True)

    def get_state(self) -> dict[str, Any]:
        """Returns what was kept, or in which file it is."""
        return {
            "weights": self.weights,
            "optimizer_state": self.optimizer_state,
            "file": None if self.file is None else str(self.file),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on with what was kept.

        Raises:
            FileNotFoundError: If it is in a file that is gone.
        """
        self.weights = state["weights"]
        self.optimizer_state = state["optimizer_state"]
        self.file = None if state["file"] is None else pathlib.Path(state["file"])
        if self.file is not None:
            self._require_file()


def _optimizer_state(model: keras.Model) -> list[dict[str, Any]]:
    """The variables of each optimizer, without those that were added for one `fit`."""
    states = []
    for member in members(require_compiled(model, "restore_optimizer")):
        state: dict[str, Any] = {}
        member.save_own_variables(state)
        states.append({name: keras.ops.convert_to_numpy(v).copy() for name, v in state.items()})
    return states


def _set_optimizer_state(model: keras.Model, states: list[dict[str, Any]]) -> None:
    optimizers = members(require_compiled(model, "restore_optimizer"))
    for member, state in zip(optimizers, states, strict=True):
        member.load_own_variables(state)
