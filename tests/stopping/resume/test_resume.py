import functools
import os
import signal

import keras
import numpy as np
import pytest
import resume_run

from keras_optkit.callbacks import EarlyStopping, LearningRate, Pruning, WeightAveraging
from keras_optkit.core.fit_scope import owners
from keras_optkit.pruning import ConstantSparsity
from keras_optkit.schedules import CosineDecay
from keras_optkit.stopping.resume import resume as resume_module
from keras_optkit.stopping.resume.resume import Position, Resume


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch):
    _new_process(monkeypatch)


def _new_process(monkeypatch):
    monkeypatch.setattr(resume_module, "_ENDED", {})


class Interrupt(keras.callbacks.Callback):
    """Ends a `fit` by an exception, before a batch of an epoch or at the end of it."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.at, self.epoch = (epoch, batch), None

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise InterruptedError

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == self.at:
            raise InterruptedError


@pytest.fixture
def build(make_model):
    """`make_model`, for trainings that are too short to be worth compiling."""
    eager = keras.backend.backend() == "tensorflow"
    return functools.partial(make_model, run_eagerly=eager)


@pytest.fixture
def train(tmp_path, toy, build):
    """A function that trains for 4 epochs of 4 batches, in a directory that stays the same."""

    def run(callbacks=(), interrupt=None, model=None, every="1step", **kwargs):
        keras.utils.set_random_seed(0)
        x, y = toy
        model = build() if model is None else model
        resume = kwargs.pop("resume", None) or Resume(tmp_path / "run", every=every, verbose=0)
        used = [*callbacks, resume]
        used += [Interrupt(*interrupt)] if interrupt else []
        arguments = {"epochs": 4, "batch_size": 16, "verbose": 0, **kwargs}
        try:
            model.fit(x, y, validation_data=(x, y), callbacks=used, **arguments)
        except InterruptedError:
            assert interrupt
        return model, resume

    return run


_WHOLE = {}


@pytest.fixture
def whole(toy, build):
    """The end of the training of `train` without `Resume`; every test has the same."""
    if not _WHOLE:
        keras.utils.set_random_seed(0)
        x, y = toy
        model = build()
        model.fit(x, y, validation_data=(x, y), epochs=4, batch_size=16, verbose=0)
        _WHOLE.update(_end(model))
    return _WHOLE


def _end(model):
    return {
        "history": model.history.history,
        "epochs": model.history.epoch,
        "variables": _values(model),
    }


def _values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)).tobytes() for v in variables]


def _same_end(one, other):
    other = other if isinstance(other, dict) else _end(other)
    assert _end(one) == other


# Real processes, really killed.

EVERYTHING = {"every": "3step"}


def _killed(tmp_path, case, *kills):
    """Runs a case whole, and killed as often as asked for; both must end the same."""
    context = resume_run.forks()
    want = resume_run.run(context, case, tmp_path / "whole")
    for each in kills:
        assert resume_run.run(context, {**case, **each}, tmp_path / "killed") is None
    end = resume_run.run(context, case, tmp_path / "killed")
    assert resume_run.differences(want, end) == []
    return end, lambda: resume_run.run(context, case, tmp_path / "killed")


def test_killed_in_mid_epoch_and_in_mid_save(tmp_path):
    mid_save = {"kill_in": ("fsync", 3)}
    renaming = {"kill_in": ("replace", 2)}
    end, again = _killed(tmp_path, EVERYTHING, {"kill_at": 8}, mid_save, renaming)
    assert end[2] is not None
    ended = again()
    assert resume_run.differences(end, ended) == []
    assert ended[2] == Position(6, 0)


@pytest.mark.parametrize(
    "case",
    [
        # On torch, a thread draws the noise of its items ahead of the training.
        pytest.param(
            {"input": "py_dataset", "optimizer": "accumulating", "every": "1step"},
            marks=pytest.mark.backends("tensorflow", "jax"),
        ),
        {"input": "tf.data", "callbacks": ["resume", "scheduler", "stop", "stop on loss", "csv"]},
    ],
    ids=["py_dataset", "tf.data"],
)
def test_killed_with_other_data(tmp_path, case):
    _killed(tmp_path, {"every": "2step", **case}, {"kill_at": 13})


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize(
    "case",
    [
        {"input": "tf.data, repeated", "callbacks": ["rate", "resume", "pruning", "stop"]},
        {"input": "tf.data, unknown length", "optimizer": "scaled", "steps_per_execution": 2},
    ],
    ids=lambda case: case["input"],
)
def test_killed_with_more_kinds_of_data(tmp_path, case):
    _killed(tmp_path, {"every": "1step", **case}, {"kill_at": 9})


# A process that is killed, played by an exception in one process.


@pytest.mark.parametrize("interrupt", [(0, 1), (1, 0), (2, 3), (1, None), (3, None)], ids=str)
def test_the_end_is_the_same_wherever_it_was_interrupted(train, whole, interrupt):
    train(interrupt=interrupt)
    model, resume = train()
    _same_end(model, whole)
    epoch, batch = interrupt
    assert resume.resumed_from == (Position(epoch, batch or 0) if batch is not None else (epoch, 3))


def test_saves_do_not_change_the_run(train, whole):
    model, resume = train()
    assert len(resume.save_seconds) == 16
    _same_end(model, whole)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
def test_every_order_of_callbacks_gives_the_same_end(train, tmp_path, order):
    def arranged(directory):
        callbacks = [
            keras.callbacks.ReduceLROnPlateau("loss", min_delta=9, patience=2, factor=0.5),
            EarlyStopping("val_loss", patience=2, min_delta=9, restore_best_weights=True),
            Resume(tmp_path / directory, every="1step", verbose=0),
        ]
        *first, last = [callbacks[i] for i in order]
        return {"callbacks": first, "resume": last}

    whole, _ = train(**arranged("whole"))
    assert whole.history.epoch == [0, 1, 2]
    train(**arranged("run"), interrupt=(1, 2))
    model, _ = train(**arranged("run"))
    _same_end(model, whole)


def test_two_callbacks_of_one_class_keep_apart(train, tmp_path):
    def callbacks():
        return [
            EarlyStopping("val_loss", patience=9, min_delta=9),
            EarlyStopping("loss", patience=2, min_delta=9),
            keras.callbacks.EarlyStopping("val_loss", patience=9, min_delta=9),
            keras.callbacks.EarlyStopping("loss", patience=2, min_delta=9),
        ]

    train(callbacks(), interrupt=(2, 1))
    used = callbacks()
    model, _ = train(used)
    assert model.history.epoch == [0, 1, 2]
    assert [callback.wait for callback in used] == [2, 2, 2, 2]


def test_callbacks_in_resume_alone_take_part(train, tmp_path):
    def resume():
        stop = EarlyStopping("loss", patience=2, min_delta=9)
        return Resume(tmp_path / "run", callbacks=[stop], every="1step", verbose=0)

    train(resume=resume(), interrupt=(2, 1))
    model, _ = train(resume=resume())
    assert model.history.epoch == [0, 1, 2]


def test_callbacks_in_both_lists_take_part_once(train, tmp_path):
    stop = EarlyStopping("loss", patience=3, min_delta=9)
    model, _ = train([stop], resume=Resume(tmp_path / "run", callbacks=[stop], verbose=0))
    assert model.history.epoch == [0, 1, 2, 3]
    assert stop.wait == 3


def test_hooks_of_a_batch_are_not_run_twice(train):
    seen = []

    class Counts(Interrupt):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((self.epoch, batch))

    train([Counts(9)], interrupt=(1, 2))
    train([Counts(9)])
    assert seen == [(epoch, batch) for epoch in range(4) for batch in range(4)]


def test_an_ended_run_is_recognised(train, capsys, tmp_path):
    stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9, restore_best_weights=True)
    whole, _ = train([stop])
    resume_module._ENDED.clear()
    stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9, restore_best_weights=True)
    steps = []
    counter = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda b, logs: steps.append(b))
    model, resume = train([stop, counter], resume=Resume(tmp_path / "run"))
    assert steps == []
    _same_end(model, whole)
    assert resume.resumed_from == Position(2, 0)
    assert "Resume: the run had ended" in capsys.readouterr().out


def test_ended_under_moving_averages_and_pruning(train, build):
    def parts():
        optimizer = keras.optimizers.Adam(use_ema=True, ema_momentum=0.9)
        return [Pruning(ConstantSparsity(0.5, 0)), LearningRate(CosineDecay(0.1))], optimizer

    callbacks, optimizer = parts()
    whole, _ = train(callbacks, model=build(optimizer))
    resume_module._ENDED.clear()
    callbacks, optimizer = parts()
    model, _ = train(callbacks, model=build(optimizer))
    _same_end(model, whole)


@pytest.mark.parametrize("interrupt", [(1, 2), (2, 0), None], ids=str)
@pytest.mark.parametrize("method", ["ema", "lawa"])
def test_averaged_weights_go_on(train, build, toy, tmp_path, method, interrupt):
    def parts():
        averaging = WeightAveraging(method, **({"decay": 0.8} if method == "ema" else {"last": 2}))
        stop = EarlyStopping("val_loss", patience=9, restore_best_weights=True)
        return [stop, averaging, Pruning(ConstantSparsity(0.5, 4, frequency=3))]

    keras.utils.set_random_seed(0)
    whole = build()
    x, y = toy
    arguments = {"validation_data": (x, y), "epochs": 4, "batch_size": 16, "verbose": 0}
    whole.fit(x, y, callbacks=parts(), **arguments)
    train(parts(), interrupt=interrupt)
    resume_module._ENDED.clear()
    model, resume = train(parts()[::-1])
    assert resume.resumed_from is not None
    _same_end(model, whole)


def test_a_later_fit_is_not_hijacked(train, toy):
    x, y = toy
    train(interrupt=(1, 2))
    model, _ = train()
    history = model.fit(x, y, epochs=2, verbose=0)
    assert history.epoch == [0, 1]


def test_fits_in_one_script_have_their_own_state(train, toy, monkeypatch):
    whole, _ = train()
    _, second = train(model=whole, epochs=2)
    assert second.resumed_from is None
    assert whole.history.epoch == [0, 1]
    _new_process(monkeypatch)
    model, first = train()
    assert first.resumed_from == Position(4, 0)
    _, second = train(model=model, epochs=2)
    assert second.resumed_from == Position(2, 0)
    _same_end(model, whole)


def test_more_epochs_go_on(train, tmp_path, capsys):
    whole, _ = train(resume=Resume(tmp_path / "whole", verbose=0), epochs=6)
    train()
    resume_module._ENDED.clear()
    model, resume = train(epochs=6)
    _same_end(model, whole)
    assert resume.resumed_from == Position(4, 0)
    assert "changed since the last start: epochs 4 -> 6." in capsys.readouterr().out


def test_a_rate_that_was_changed_wins(train, build, capsys):
    train(model=build(keras.optimizers.Adam(0.1)), interrupt=(2, 1))
    model, _ = train(model=build(keras.optimizers.Adam(0.25)))
    assert float(model.optimizer.learning_rate) == 0.25
    assert "optimizer: learning_rate 0.10000000149011612 -> 0.25" in capsys.readouterr().out


def test_a_rate_that_was_cut_stays_cut(train, build):
    def plateau():
        return keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=9)

    train([plateau()], model=build(keras.optimizers.Adam(0.5)), interrupt=(2, 1))
    model, _ = train([plateau()], model=build(keras.optimizers.Adam(0.5)))
    assert model.history.history["learning_rate"] == [0.5, 0.5, 0.25, 0.125]


def test_a_longer_patience_goes_on_with_a_stopped_run(train, capsys):
    def stop(patience):
        return EarlyStopping("loss", patience=patience, min_delta=9)

    train([stop(1)])
    resume_module._ENDED.clear()
    model, _ = train([stop(2)])
    assert model.history.epoch == [0, 1, 2]
    assert "EarlyStopping: patience 1 -> 2" in capsys.readouterr().out


def test_a_stop_for_now_goes_on(train):
    class Pause(Interrupt):
        paused = False

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.stop_training = self.paused = True

    train([Pause(9)])
    resume_module._ENDED.clear()
    model, resume = train()
    assert resume.resumed_from == Position(2, 0)
    assert model.history.epoch == [0, 1, 2, 3]


def test_another_model_is_refused(train, build, tmp_path):
    train()
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    other.compile("adam", "sparse_categorical_crossentropy")
    before = [np.array(w) for w in other.get_weights()]
    resume_module._ENDED.clear()
    with pytest.raises(ValueError, match=r"another model or optimizer.*Received: directory="):
        train(model=other)
    for old, new in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert owners(other) == []
    with pytest.raises(ValueError, match="another model or optimizer"):
        train(model=build(keras.optimizers.SGD()))


def test_a_newer_format_is_refused(train, tmp_path):
    train()
    resume_module._ENDED.clear()
    newest = max((tmp_path / "run").iterdir())
    newest.write_bytes(newest.read_bytes().replace(b"Resume 1\n", b"Resume 9\n", 1))
    with pytest.raises(ValueError, match="format 9, .* Update keras_optkit"):
        train()


def test_a_torn_file_is_told_and_the_one_before_used(train, whole, tmp_path, capsys):
    train(interrupt=(2, 2))
    newest = max((tmp_path / "run").iterdir())
    newest.write_bytes(newest.read_bytes()[:-7])
    model, resume = train()
    assert resume.resumed_from == Position(2, 1)
    _same_end(model, whole)
    said = capsys.readouterr().out
    assert f"{newest.name} is left aside: it is torn" in said
    assert "the state before is used" in said


def test_a_file_in_the_place_of_the_directory_is_refused(train, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="there is a file of this name"):
        train()
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit of file sizes")
def test_a_full_disk_keeps_the_last_state(train, tmp_path, capsys):
    import resource

    train(interrupt=(1, 2))
    kept = sorted(os.listdir(tmp_path / "run"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max((tmp_path / "run").iterdir()).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        train(interrupt=(2, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "not saved, the last state before is kept: " in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "run")) == kept
    _, resume = train()
    assert resume.resumed_from == Position(1, 2)


def test_sigterm_saves_and_ends(train, whole):
    class Terminate(Interrupt):
        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == self.at:
                os.kill(os.getpid(), signal.SIGTERM)

    own = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        train([Terminate(1, 1)], every="1ep")
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == own
    model, resume = train()
    assert resume.resumed_from == Position(1, 2)
    _same_end(model, whole)


def test_the_handler_of_sigterm_is_given_back_and_called(train):
    called = []
    own = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    try:
        train()
        assert signal.getsignal(signal.SIGTERM) is mine
        assert called == []

        class Terminate(Interrupt):
            def on_epoch_end(self, epoch, logs=None):
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(SystemExit):
            train([Terminate(9)])
        assert called == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, own)


def test_batches_of_another_size_are_told(train, capsys):
    train(interrupt=(1, 2))
    _, resume = train(batch_size=8)
    assert resume.resumed_from == Position(1, 4)
    assert "an epoch had 4 batches at the last start and has 8 now" in capsys.readouterr().out


def test_a_callback_without_known_state_is_told(train, tmp_path, capsys):
    class Mine(keras.callbacks.Callback):
        pass

    train([Mine()])
    assert "Resume does not know the state of Mine" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"`get_state\(\)` and `set_state\(state\)`"):
        Resume(tmp_path, callbacks=[Mine()])


def test_two_that_resume_are_refused(train, tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    for other in (Resume(tmp_path / "other"), backup):
        with pytest.raises(ValueError, match="Two callbacks would resume"):
            train([other])


def test_an_error_before_the_first_epoch_leaves_nothing(toy, build, tmp_path, train):
    class Fails(Interrupt):
        def on_train_begin(self, logs=None):
            raise InterruptedError

    train(interrupt=(2, 1))
    x, y = toy
    model = build()
    callbacks = [Resume(tmp_path / "run", verbose=0), Fails(9)]
    with pytest.raises(InterruptedError):
        model.fit(x, y, batch_size=16, epochs=4, callbacks=callbacks, verbose=0)
    assert model.fit(x, y, epochs=1, verbose=0).epoch == [0]


def test_siblings_learn_where_training_goes_on(train):
    found = []

    class Looks(Interrupt):
        def on_train_batch_begin(self, batch, logs=None):
            found.extend(o.resumed_from for o in owners(self.model) if isinstance(o, Resume))

    train([Looks(9)], interrupt=(1, 1))
    train([Looks(9)], epochs=2)
    assert found[0] is None
    assert found[-1] == Position(1, 1)
