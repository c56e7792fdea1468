"""The process that trains trials for another one, see `workers.py`.

Usage: python -m keras_optkit.tuning.worker_process FILE
Trials come over standard input; what came of them goes over standard output.
"""

import os
import pickle
import queue
import signal
import sys
import threading
import zlib
from typing import Any, BinaryIO


class TrialsOnDisk(dict):
    """The trials of a search, read from their files when they are asked for.

    Args:
        oracle: The search's oracle.
    """

    def __init__(self, oracle: Any):
        super().__init__()
        self._oracle = oracle

    def __missing__(self, trial_id: str) -> Any:
        from keras_tuner.src.engine.trial import Trial

        from keras_optkit.tuning.files import read_json

        folder = self._oracle._get_trial_dir(trial_id)
        return Trial.from_state(read_json(os.path.join(folder, "trial.json")))


def main(path: str) -> None:
    """Trains trials until there is nobody to give one.

    Args:
        path: String, the file of what a worker needs to know once.
    """
    # Whatever is printed in a trial must not come among the messages.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # Ctrl-C is for the process that has the search in hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given: queue.SimpleQueue = queue.SimpleQueue()
    source = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_listen, args=(source, given), daemon=True).start()
    try:
        tuner, fit_args, fit_kwargs = _load(path)
        while True:
            _answer(answers, _run(tuner, given.get(), fit_args, fit_kwargs))
    except BaseException as error:
        _answer(answers, _sendable(error))


def _listen(source: BinaryIO, given: queue.SimpleQueue) -> None:
    try:
        while True:
            given.put(pickle.load(source))
    except EOFError:
        # The search is over, or was killed: what runs here is nobody's any more.
        os._exit(0)


def _load(path: str) -> tuple[Any, tuple, dict[str, Any]]:
    import keras

    with open(path, "rb") as file:
        settings, tuner, fit_args, fit_kwargs = pickle.load(file)
    keras.config.set_floatx(settings["floatx"])
    keras.config.set_image_data_format(settings["image_data_format"])
    keras.config.set_dtype_policy(keras.dtype_policies.deserialize(settings["policy"]))
    tuner.oracle.trials = TrialsOnDisk(tuner.oracle)
    # The other process keeps the files.
    tuner.oracle._save_trial = tuner.oracle.save = lambda *args: None
    return tuner, fit_args, fit_kwargs


def _run(tuner: Any, state: dict, fit_args: tuple, fit_kwargs: dict) -> tuple[dict, Any]:
    import keras
    from keras_tuner.src.engine.trial import Trial

    trial = Trial.from_state(state)
    tuner.oracle.trials[trial.trial_id] = trial
    # By the trial alone, so that it does not matter which worker has it.
    number = zlib.crc32(f"{tuner.oracle.seed} {trial.trial_id}".encode())
    keras.utils.set_random_seed(number)
    tuner.note_error(None, forget=True)
    tuner._try_run_and_update_trial(trial, *fit_args, **fit_kwargs)
    del tuner.oracle.trials[trial.trial_id]
    return trial.get_state(), _sendable(tuner.first_error)


def _sendable(error: BaseException | None) -> BaseException | None:
    """Returns an error, or what it says where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _answer(answers: BinaryIO, message: Any) -> None:
    pickle.dump(message, answers)
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
