"""The one table from which every public part gets its common tests (see test_settings.py).

Run as a script it is the process that those tests kill and start again:
python settings.py start|resume FOLDER
"""

import dataclasses
import os
import pathlib
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_optkit import callbacks, layers, pruning, schedules

SCRATCH = tempfile.TemporaryDirectory()

EPOCHS, BATCH, SAMPLES = 5, 32, 128
KILLED_IN_EPOCH = 3


@dataclasses.dataclass
class Setting:
    """How one part is put into a small model or a `fit`.

    Args:
        name: The name of the test.
        callbacks: Makes the callbacks for one `fit`.
        layers: Makes layers that stand behind the input.
        learning_rate: Makes what the optimizer gets as its rate.
        trained_before: Whether the model has been trained without the part before, as is often
            so where a callback is added.
    """

    name: str
    callbacks: Callable[[], list] = list
    layers: Callable[[], list] = list
    learning_rate: Callable[[], object] = lambda: 0.02
    trained_before: bool = False


def rate(schedule):
    return lambda: [callbacks.LearningRate(schedule())]


def prune(schedule):
    return lambda: [callbacks.Pruning(schedule())]


SETTINGS = [
    Setting(
        "RandomAffine",
        layers=lambda: [layers.RandomAffine(rotation=10, translation=0.1, zoom=0.1, seed=5)],
    ),
    Setting(
        "ImageDataGeneratorLayer",
        layers=lambda: [
            layers.from_image_data_generator(
                rotation_range=10, width_shift_range=0.1, zoom_range=0.1, rescale=2.0, seed=5
            )
        ],
    ),
    Setting(
        "RandomErasing",
        layers=lambda: [layers.RandomErasing(mode="pixel", value_range=(0, 1), seed=5)],
    ),
    Setting(
        "RandomResizedCrop",
        layers=lambda: [layers.RandomResizedCrop(8, 8, scale=(0.5, 1), seed=5)],
    ),
    Setting(
        "RandomApply",
        layers=lambda: [layers.RandomApply(layers.RandomAffine(rotation=10), seed=5)],
    ),
    Setting(
        "OneOf",
        layers=lambda: [
            layers.OneOf(
                [
                    layers.RandomAffine(rotation=10),
                    layers.RandomErasing(0.5, value_range=(0, 1)),
                ],
                seed=5,
            )
        ],
    ),
    Setting(
        "AugmentationPipeline",
        layers=lambda: [
            layers.AugmentationPipeline(
                [
                    layers.RandomResizedCrop(8, 8, scale=(0.5, 1)),
                    layers.RandomAffine(rotation=10),
                ],
                rescale=None,
                mean=0.3,
                seed=5,
            )
        ],
    ),
    Setting(
        "RandomColor",
        layers=lambda: [layers.RandomColor(0.2, 0.2, value_range=(0, 1), seed=5)],
    ),
    Setting(
        "RandAugment",
        layers=lambda: [layers.RandAugment(1, 2, value_range=(0, 1), seed=5)],
    ),
    Setting(
        "TrivialAugmentWide",
        layers=lambda: [layers.TrivialAugmentWide(value_range=(0, 1), seed=5)],
    ),
    Setting(
        "AutoAugment",
        layers=lambda: [layers.AutoAugment("svhn", value_range=(0, 1), seed=5)],
    ),
    Setting("AugMix", layers=lambda: [layers.AugMix(value_range=(0, 1), seed=5)]),
    Setting("ConvBNAct", layers=lambda: [layers.ConvBNAct(4, 3, padding="same")]),
    Setting("DenseBNAct", layers=lambda: [layers.DenseBNAct(4)]),
    Setting(
        "SeparableConvBNAct",
        layers=lambda: [layers.SeparableConvBNAct(4, 3, padding="same")],
    ),
    Setting(
        "ResidualBNBlock",
        layers=lambda: [layers.ResidualBNBlock(4, 3, 2, stochastic_depth=0.2, seed=5)],
    ),
    Setting(
        "GhostBatchNormalization",
        layers=lambda: [layers.GhostBatchNormalization(12)],
    ),
    Setting("SyncBatchNormalization", layers=lambda: [layers.SyncBatchNormalization()]),
    Setting(
        "StepDecay",
        rate(lambda: schedules.StepDecay(0.02, "1ep", gamma=0.5)),
        trained_before=True,
    ),
    Setting("CosineDecay", rate(lambda: schedules.CosineDecay(0.02, alpha=0.1).with_warmup("1ep"))),
    Setting("Constant", rate(lambda: schedules.Constant(0.02).with_warmup("1ep"))),
    Setting("LinearDecay", rate(lambda: schedules.LinearDecay(0.02))),
    Setting("MultiStepDecay", rate(lambda: schedules.MultiStepDecay(0.02, ["1ep", 0.8]))),
    Setting("ExponentialDecay", rate(lambda: schedules.ExponentialDecay(0.02, "2ep", 0.5))),
    Setting("PolynomialDecay of the rate", rate(lambda: schedules.PolynomialDecay(0.02, power=2))),
    Setting("CosineRestarts", rate(lambda: schedules.CosineRestarts(0.02, "2ep", m_mul=0.5))),
    Setting("Cyclic", rate(lambda: schedules.Cyclic(0.002, 0.02, "2ep", "triangular2"))),
    Setting("WarmupStableDecay", rate(lambda: schedules.WarmupStableDecay(0.02, warmup="1ep"))),
    Setting("InverseSqrt", rate(lambda: schedules.InverseSqrt(0.02, 5).with_warmup(5))),
    Setting(
        "Sequence",
        rate(
            lambda: schedules.Sequence(
                [schedules.Constant(0.02), schedules.CosineDecay(0.02)], ["2ep"]
            )
        ),
    ),
    Setting(
        "Product",
        rate(
            lambda: schedules.Product(
                schedules.CosineDecay(0.02), schedules.StepDecay(1.0, "2ep", 0.5)
            )
        ),
    ),
    Setting("OneCycle", rate(lambda: schedules.OneCycle(0.02))),
    Setting(
        "OneCycle of rate and momentum", rate(lambda: schedules.OneCycle(0.02, cycle_momentum=True))
    ),
    Setting(
        "ReduceOnPlateau",
        lambda: [callbacks.ReduceOnPlateau("loss", 0.5, 1, min_delta=0.3, warmup="1ep")],
        trained_before=True,
    ),
    Setting(
        "ReduceOnPlateau on a schedule",
        lambda: [
            callbacks.ReduceOnPlateau(
                "loss", 0.5, 1, min_delta=9.0, cooldown=1, restore_best_weights=True
            ),
            callbacks.LearningRate(schedules.CosineDecay(0.02)),
        ],
    ),
    Setting("StepDecay in the optimizer", learning_rate=lambda: schedules.StepDecay(0.02, 6)),
    Setting(
        "EarlyStopping",
        lambda: [callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)],
    ),
    Setting(
        "EarlyStopping with more of its arguments",
        lambda: [
            callbacks.EarlyStopping(
                ["loss", "accuracy"],
                0.3,
                "6step",
                restore_best_weights=True,
                min_delta_mode="relative",
                window=2,
                combine="all",
                restore_optimizer=True,
            )
        ],
    ),
    Setting(
        "EarlyStopping by a criterion",
        lambda: [callbacks.EarlyStopping("loss", criterion="PQ0.75")],
    ),
    Setting("TimeBudget", lambda: [callbacks.TimeBudget("10h")]),
    Setting("TrainingReport", lambda: [callbacks.TrainingReport(SCRATCH.name, every=0)]),
    Setting(
        "WeightAveraging",
        lambda: [callbacks.WeightAveraging(decay=0.8)],
        trained_before=True,
    ),
    Setting(
        "WeightAveraging of the latest, and EarlyStopping",
        lambda: [
            callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True),
            callbacks.WeightAveraging("lawa", last=2),
        ],
    ),
    Setting(
        "WeightAveraging with BatchNorm",
        lambda: [callbacks.WeightAveraging("swa", start=6, every=5, data=data()[0])],
        lambda: [layers.ConvBNAct(4, 3)],
    ),
    Setting("ConstantSparsity", prune(lambda: pruning.ConstantSparsity(0.5, "1ep", frequency=7))),
    Setting(
        "PolynomialDecay",
        prune(lambda: pruning.PolynomialDecay(0.0, 0.75, 0, "4ep", frequency=3)),
        trained_before=True,
    ),
    Setting("OneShot", prune(lambda: pruning.OneShot(0.5, "1ep"))),
    Setting(
        "CubicWithWarmup",
        prune(lambda: pruning.CubicWithWarmup(0.75, "1ep", "1ep", frequency=3)),
    ),
    Setting(
        "NMSparsity",
        lambda: [
            callbacks.Pruning(pruning.OneShot(0.5, "1ep"), structure=pruning.NMSparsity(2, 4))
        ],
    ),
    Setting(
        "BlockSparsity",
        lambda: [
            callbacks.Pruning(
                pruning.ConstantSparsity(0.5, "1ep", frequency=7),
                structure=pruning.BlockSparsity((4, 2)),
            )
        ],
    ),
    Setting(
        "Pruning, global",
        lambda: [
            callbacks.Pruning(
                pruning.PolynomialDecay(0.0, 0.75, 0, "4ep", frequency=3), scope="global"
            )
        ],
    ),
    Setting(
        "GroupSparsity",
        lambda: [callbacks.GroupSparsity(0.3, "2ep", "1ep")],
        lambda: [layers.ConvBNAct(6, 3)],
        trained_before=True,
    ),
    Setting(
        "all together",
        lambda: [
            callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True),
            callbacks.WeightAveraging(decay=0.8, start="4ep"),
            callbacks.Pruning(pruning.PolynomialDecay(0.0, 0.75, 0, "4ep", frequency=3)),
            callbacks.LearningRate(schedules.OneCycle(0.02)),
        ],
        lambda: [layers.RandomAffine(rotation=10, seed=5), layers.ConvBNAct(4, 3)],
        trained_before=True,
    ),
]

# A killed run is resumed for every setting on torch, where no step has to be compiled; elsewhere
# for one of each kind, as parts of a kind keep their state in one way.
ONE_OF_EACH_KIND = {
    "RandomAffine",
    "AugmentationPipeline",
    "ResidualBNBlock",
    "GhostBatchNormalization",
    "CosineDecay",
    "OneCycle of rate and momentum",
    "ReduceOnPlateau on a schedule",
    "EarlyStopping with more of its arguments",
    "TimeBudget",
    "TrainingReport",
    "WeightAveraging with BatchNorm",
    "PolynomialDecay",
    "NMSparsity",
    "GroupSparsity",
    "all together",
}
KILLED = [
    setting
    for setting in SETTINGS
    if keras.backend.backend() == "torch" or setting.name in ONE_OF_EACH_KIND
]


def data():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images[:SAMPLES, ..., None] / 16).astype("float32")
    return x, digits.target[:SAMPLES].astype("int32")


def make_model(setting):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *setting.layers(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.2, seed=3),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(setting.learning_rate()), loss, metrics=["accuracy"])
    if setting.trained_before:
        fit(model, [], epochs=1)
    return model


def fit(model, parts, epochs=EPOCHS, initial_epoch=0, extra=()):
    history = model.fit(
        *data(),
        batch_size=BATCH,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=[*parts, *extra],
    )
    return history.history


def seed_generators(model):
    """The sources of randomness, whose state Keras does not save with a model."""
    return [seed for layer in model._flatten_layers() for seed in layer._seed_generators]


class KilledError(Exception):
    pass


class SaveThenDie(keras.callbacks.Callback):
    """Saves model and states after each epoch, and breaks off in the middle of a later one."""

    def __init__(self, folder, parts):
        super().__init__()
        self.folder, self.parts = folder, parts
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == KILLED_IN_EPOCH and batch == 1:
            raise KilledError

    def on_epoch_end(self, epoch, logs=None):
        self.model.save(self.folder / "model.keras")
        states = [part.get_state() for part in self.parts]
        seeds = [keras.ops.convert_to_numpy(seed.state) for seed in seed_generators(self.model)]
        (self.folder / "states").write_bytes(pickle.dumps((states, seeds)))


def start(setting, folder):
    folder.mkdir(parents=True)
    parts = setting.callbacks()
    try:
        fit(make_model(setting), parts, extra=[SaveThenDie(folder, parts)])
    except KilledError:
        return
    raise AssertionError("the run was not broken off")


def resume(setting, folder):
    model = keras.models.load_model(folder / "model.keras")
    parts = setting.callbacks()
    states, seeds = pickle.loads((folder / "states").read_bytes())
    for generator, seed in zip(seed_generators(model), seeds, strict=True):
        generator.state.assign(seed)
    for part, state in zip(parts, states, strict=True):
        part.set_state(state)
    history = fit(model, parts, initial_epoch=KILLED_IN_EPOCH)
    np.savez(folder / "end.npz", *model.get_weights())
    (folder / "history").write_bytes(pickle.dumps(history))


def main(phase, folder):
    for setting in KILLED:
        {"start": start, "resume": resume}[phase](setting, pathlib.Path(folder) / setting.name)
    if phase == "start":
        # Nothing that this process could still tidy up reaches the next one.
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
