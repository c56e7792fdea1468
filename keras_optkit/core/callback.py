"""The base of every callback here: a scope for its changes, and state that can be resumed."""

import keras

from keras_optkit.core.duration import Run, to_steps
from keras_optkit.core.fit_scope import FitScope
from keras_optkit.core.optimizer import iterations, require_compiled, updates_per_batch
from keras_optkit.core.state import Stateful


class OptkitCallback(Stateful, keras.callbacks.Callback):
    """A Keras callback whose changes to the model last one `fit`.

    A subclass writes `_install(epoch, state)`, which is called once per `fit`, at the start of
    its first epoch and so before its first step. Keras tells a callback the first epoch
    (`initial_epoch`) no earlier than that. Whatever `_install` raises, the model is put back.
    """

    # Nothing here needs the logs of a single batch, so `fit` need not wait for them.
    async_safe = True
    _fit_scope: FitScope | None = None

    def _install(self, epoch: int, state: dict | None) -> None:
        """Prepares the model for this `fit`.

        Args:
            epoch: Integer, the first epoch that will run, counted from 0.
            state: What `set_state` was given, or `None` for a fresh start.
        """
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """The length of the `fit` that runs."""
        optimizer = require_compiled(self.model, type(self).__name__)
        batches = self.params.get("steps")
        steps = None if batches is None else batches * updates_per_batch(optimizer)
        return Run(epochs=self.params["epochs"], steps_per_epoch=steps)

    def _first_update(self, epoch: int, state: dict | None) -> int:
        """Returns the optimizer's update count at which epoch 0 of this run began.

        A schedule starts with the `fit` that it is passed to. A `fit` that goes on, told by
        `initial_epoch` or by its state, goes on in the schedule.
        """
        if state is not None:
            return state["start"]
        made = iterations(require_compiled(self.model, type(self).__name__))
        return made if epoch == 0 else made - to_steps(f"{epoch}ep", self.run, "initial_epoch")

    def on_train_begin(self, logs=None):
        if self._fit_scope is not None:
            self._fit_scope.close()
        self._fit_scope = FitScope(self.model, self)
        self._installed = False

    def on_epoch_begin(self, epoch, logs=None):
        if self._installed:
            return
        self._installed = True
        try:
            self._install(epoch, self._take_pending_state())
        except BaseException:
            self._fit_scope.close()
            raise
        if self._fit_scope.changed:
            # A step that was compiled for an earlier `fit` does not hold the change.
            self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        self._fit_scope.close()
        self._fit_scope = None
