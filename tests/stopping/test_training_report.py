import json
import os

import cv2
import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from keras_optkit.callbacks import EarlyStopping, LearningRate, ReduceOnPlateau
from keras_optkit.schedules import StepDecay
from keras_optkit.stopping import report_figure
from keras_optkit.stopping.report_figure import draw, panels
from keras_optkit.stopping.training_report import TrainingReport


def fit(model, toy, *callbacks, epochs=4, **kwargs):
    arguments = {"epochs": epochs, "batch_size": 16, "verbose": 0, **kwargs}
    return model.fit(*toy, callbacks=list(callbacks), **arguments).history


def read(folder):
    # As JSON has it: without NaN.
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads((folder / "training.json").read_text(), parse_constant=refuse)


def kinds(report):
    return [(event["kind"], event["epoch"]) for event in report["events"]]


@pytest.mark.parametrize("first", [True, False])
def test_numbers_and_events_in_any_order(make_model, toy, tmp_path, first):
    report = TrainingReport(tmp_path / "new" / "report")
    others = [
        LearningRate(StepDecay(0.02, "1ep", 0.5)),
        EarlyStopping("val_loss", patience=2, mode="max"),
        ReduceOnPlateau("loss", 0.5, 2, mode="max"),
    ]
    model = make_model()
    callbacks = [report, *others] if first else [*others, report]
    history = fit(model, toy, *callbacks, validation_data=toy, epochs=9)
    read_back = read(report.directory)
    seconds = read_back["history"].pop("seconds")
    assert read_back["history"] == {"epoch": [1, 2, 3], **history}
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert sorted(kinds(read_back)) == [("best", 1), ("rate cut", 3), ("stopped", 3)]
    stopped = next(event for event in read_back["events"] if event["kind"] == "stopped")
    assert stopped["why"] == "no improvement within the patience"
    assert stopped["explanation"].startswith("Training ended")
    assert sorted(os.listdir(report.directory)) == ["training.json", "training.png"]
    assert cv2.imread(str(report.directory / "training.png")).std() > 10


def test_the_rate_of_the_optimizer_and_a_nan(toy, make_model, tmp_path):
    class Nan(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["loss"] = [1.0, float("nan"), 0.5, float("inf")][epoch]

    history = fit(make_model(keras.optimizers.SGD(0.25)), toy, Nan(), TrainingReport(tmp_path))
    read_back = read(tmp_path)
    assert read_back["history"]["learning_rate"] == [0.25] * 4
    assert read_back["history"]["loss"] == [1.0, None, 0.5, None]
    assert kinds(read_back) == [("best", 3)]
    assert np.isnan(history["loss"][1])


def test_a_run_that_breaks_off_leaves_what_was_there(make_model, toy, tmp_path):
    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        fit(make_model(), toy, TrainingReport(tmp_path), Break())
    assert read(tmp_path)["history"]["epoch"] == [1, 2]
    assert cv2.imread(str(tmp_path / "training.png")) is not None


def test_a_resumed_run_keeps_its_past(make_model, toy, tmp_path):
    class Resumed(EarlyStopping):
        class resumed_from:  # noqa: N801
            epoch, batch = 2, 0

    model, report = make_model(), TrainingReport(tmp_path)
    first = fit(model, toy, report, epochs=3)
    # Broken off in the third epoch, so that is made again.
    state = json.loads(json.dumps(report.get_state()))
    again = TrainingReport(tmp_path)
    again.set_state(state)
    second = fit(model, toy, again, Resumed("loss", patience=9), initial_epoch=2)
    read_back = read(tmp_path)
    assert read_back["history"]["loss"] == first["loss"][:2] + second["loss"]
    assert read_back["history"]["epoch"] == [1, 2, 3, 4]
    assert ("resumed", 3) in kinds(read_back)
    assert [event["kind"] for event in again.get_state()["resumed"]] == ["resumed"]


def test_a_failure_to_write_does_not_end_the_training(make_model, toy, tmp_path):
    (tmp_path / ".training.json.partial").mkdir()
    with pytest.warns(UserWarning, match="could not be written, and training goes on") as told:
        history = fit(make_model(), toy, TrainingReport(tmp_path), epochs=2)
    assert len(history["loss"]) == 2
    assert sum("could not be written" in str(warning.message) for warning in told) == 1
    assert sorted(os.listdir(tmp_path)) == [".training.json.partial", "training.png"]


def test_one_instance_over_two_fits(make_model, toy, tmp_path):
    report, model = TrainingReport(tmp_path, every=0), make_model()
    for epochs in (2, 1):
        fit(model, toy, report, epochs=epochs)
        assert len(read(tmp_path)["history"]["loss"]) == epochs
    (tmp_path / "training.png").unlink()
    # Without an epoch there is nothing to write.
    fit(model, toy, report, epochs=1, initial_epoch=1)
    assert not (tmp_path / "training.png").exists()


def test_matplotlib_stays_as_it_is(make_model, toy, tmp_path):
    plt.figure(figsize=(1, 1))
    try:
        before = dict(matplotlib.rcParams), plt.get_backend(), plt.get_fignums(), plt.gcf()
        fit(make_model(), toy, TrainingReport(tmp_path), epochs=1)
        after = dict(matplotlib.rcParams), plt.get_backend(), plt.get_fignums(), plt.gcf()
        assert before == after
        assert not plt.gcf().axes
    finally:
        plt.close()


def lines(axis, color):
    return [line for line in axis.lines if to_rgb(line.get_color()) == to_rgb(color)]


def test_the_curves_are_the_values():
    nan = float("nan")
    columns = {
        "accuracy": [0.1, 0.5, 0.7, 0.9],
        "loss": [3.0, 2.0, nan, 1.0],
        "val_loss": [None, 2.5, None, 1.5],
        "seconds": [3.0, 3, 3, 3],
    }
    assert [title for title, _ in panels(columns)] == ["loss", "accuracy", "seconds"]
    before = dict(matplotlib.rcParams)
    events = [{"kind": "best", "epoch": 4}, {"kind": "resumed", "epoch": 3}]
    figure = draw([1, 2, 3, 4], columns, events, "title")
    assert dict(matplotlib.rcParams) == before
    loss = figure.axes[0]
    curve, bad = lines(loss, report_figure._TRAINING)
    np.testing.assert_array_equal(curve.get_ydata(), [3, 2, nan, 1])
    np.testing.assert_array_equal(bad.get_xdata(), [3])
    (curve,) = lines(loss, report_figure._VALIDATION)
    np.testing.assert_array_equal(curve.get_xdata(), [2, 4])
    np.testing.assert_array_equal(curve.get_ydata(), [2.5, 1.5])
    for color, place in (("#009E73", 4), ("#E69F00", 2.5)):
        assert list(lines(loss, color)[0].get_xdata()) == [place, place]
    assert [axis.get_title() for axis in figure.axes][:3] == [
        "loss",
        "accuracy",
        "seconds per epoch",
    ]
    assert all(axis.get_xlabel() == "epoch" for axis in figure.axes[:3])


@pytest.mark.parametrize("epochs", [1, 1000])
def test_few_and_many_epochs(epochs):
    values = list(np.geomspace(10, 0.001, epochs))
    figure = draw(range(1, epochs + 1), {"loss": values}, [], "title")
    figure.canvas.draw()
    (curve,) = figure.axes[0].lines
    assert len(curve.get_xdata()) == epochs
    # One value alone is seen, and three decades are.
    assert (curve.get_marker() == "o") == (epochs == 1)
    assert (figure.axes[0].get_yscale() == "log") == (epochs > 1)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="Received: every=-1"):
        TrainingReport(tmp_path, every=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder.*which is a file"):
        TrainingReport(tmp_path / "file")
