"""Sentences on what a comparison's numbers say, and none that they do not bear out."""

import os
import platform
from collections.abc import Mapping

import numpy as np

from keras_optkit.compression.export.measure import mcnemar_p, sign_test_p
from keras_optkit.compression.export.report import FileStats, ModelStats

# Two sizes count as the same where names and metadata alone may make the difference.
_SAME = 0.02
# Files that are so alike may change places in another process, wherever their memory lies.
_SAME_LATENCY = 0.05
# The usual level of significance.
_LEVEL = 0.05


def about_zeros(models: Mapping[str, ModelStats]) -> list[str]:
    """What the zeros of each model save against the first model, in bytes raw and after gzip."""
    (base_name, base), *others = models.items()
    notes = []
    for name, stats in others:
        zeros = 1 - stats.nonzero / max(1, stats.parameters)
        base_zeros = 1 - base.nonzero / max(1, base.parameters)
        if stats.parameters != base.parameters or zeros < base_zeros + 0.01:
            continue
        facts = []
        for kind, file in stats.files.items():
            other = base.files.get(kind, FileStats())
            if file.bytes is None or other.bytes is None:
                continue
            if abs(file.bytes / other.bytes - 1) > _SAME:
                continue
            ratio = file.gzip_bytes / other.gzip_bytes
            verb = f"shrinks it to {ratio:.0%}" if ratio < 1 - _SAME else "does not shrink it"
            facts.append(
                f"its {kind} .tflite has {file.bytes:,} bytes, that of {base_name!r} "
                f"{other.bytes:,}, and gzip {verb} ({file.gzip_bytes:,} bytes against "
                f"{other.gzip_bytes:,})"
            )
        if facts:
            notes.append(
                f"{name!r} is {zeros:.0%} zeros, and in a dense file they save nothing by "
                f"themselves: {'; '.join(facts)}."
            )
    return notes


def about_accuracy(
    models: Mapping[str, ModelStats], correct: Mapping[str, Mapping[str, np.ndarray]]
) -> list[str]:
    """Which differences in accuracy are within noise.

    Args:
        models: The models' numbers, the baseline first.
        correct: For each model, boolean arrays of the samples that it gets right, under `"keras"`
            and under the name of each of its files.
    """
    base, *others = models
    samples = models[base].accuracy.samples
    notes = []
    for name in others:
        p = mcnemar_p(correct[base]["keras"], correct[name]["keras"])
        notes.append(
            f"Accuracy of {name!r} ({models[name].accuracy.value:.2%}) against {base!r} "
            f"({models[base].accuracy.value:.2%}): {_verdict(p, samples)}."
        )
    compared = 0
    beyond = []
    for name in models:
        for kind, answers in correct[name].items():
            if kind == "keras":
                continue
            compared += 1
            p = mcnemar_p(correct[name]["keras"], answers)
            if p < _LEVEL:
                beyond.append(
                    f"Accuracy of the {kind} .tflite of {name!r} ({answers.mean():.2%}) against "
                    f"its Keras model ({models[name].accuracy.value:.2%}): "
                    f"{_verdict(p, samples)}."
                )
    if compared and not beyond:
        notes.append("The accuracy of each .tflite is within noise of that of its Keras model.")
    return notes + beyond


def _verdict(p: float, samples: int) -> str:
    test = f"exact McNemar test on {samples:,} samples, p = {p:.2g}"
    return f"within noise ({test})" if p >= _LEVEL else f"more than noise ({test})"


def about_latency(
    models: Mapping[str, ModelStats], times: Mapping[tuple[str, str], np.ndarray]
) -> list[str]:
    """Which differences in latency are within noise, between models and between files of one.

    Args:
        models: The models' numbers, the baseline first.
        times: For a model's name and a file's kind the times of that file, in milliseconds, a round
            of all files at each index.
    """
    base, *others = models
    kinds = list(dict.fromkeys(kind for _, kind in times))
    notes = []
    if not kinds:
        return notes
    for kind in kinds:
        found = _latencies(times, (base, kind), {repr(name): (name, kind) for name in others})
        if found:
            notes.append(f"Latency of the {kind} files against that of {base!r} {found}.")
    for name in models:
        found = _latencies(times, (name, kinds[0]), {kind: (name, kind) for kind in kinds[1:]})
        if found:
            notes.append(f"Latency of the files of {name!r} against its {kinds[0]} one {found}.")
    return notes


def _latencies(times, first, others) -> str | None:
    """Compares files with the first one, as a list of facts."""
    others = {label: times[key] for label, key in others.items() if key in times}
    if first not in times or not others:
        return None
    median, facts = np.median(times[first]), []
    for label, other in others.items():
        ratio, p = np.median(other) / median, sign_test_p(times[first], other)
        same = p >= _LEVEL or abs(ratio - 1) < _SAME_LATENCY
        verdict = "within noise" if same else "faster" if ratio < 1 else "slower"
        facts.append(f"{label} {verdict} ({ratio:.2f} times, p = {p:.2g})")
    return f"({median:.3g} ms): {'; '.join(facts)}"


def about_files(models: Mapping[str, ModelStats]) -> list[str]:
    """Files that were refused, and int8 files that are not integer throughout."""
    notes = []
    for name, stats in models.items():
        for kind, file in stats.files.items():
            if file.error is not None:
                notes.append(f"No {kind} .tflite of {name!r}: {file.error}")
            elif kind.startswith("int8") and file.float_operations:
                notes.append(
                    f"In the int8 .tflite of {name!r} these operations stay in float32: "
                    f"{', '.join(file.float_operations)}."
                )
    return notes


def about_measurement(models: Mapping[str, ModelStats], calibrated_on_data: int) -> list[str]:
    """How the numbers were taken.

    Args:
        models: The models' numbers.
        calibrated_on_data: Integer, how many of the evaluation inputs, without labels, int8 ranges
            were measured on; 0 for none.
    """
    latencies = [f.latency for s in models.values() for f in s.files.values() if f.latency]
    notes = [
        "Accuracies come with a 95 % Wilson interval; .keras files are counted without the "
        "optimizer's state; -0.0 counts as zero; FLOPs are those of the kernels for one sample, a "
        "multiplication and an addition two."
    ]
    if calibrated_on_data:
        notes.append(
            f"The int8 ranges were measured on the first {calibrated_on_data:,} inputs of the "
            "evaluation data, without their labels."
        )
    if latencies:
        first = latencies[0]
        notes.append(
            f"Latency: {first.runs} runs of each file, the files in turn, batch "
            f"{first.batch_size}, {first.threads} thread(s), on this machine "
            f"({platform.machine()}, {os.cpu_count()} cores); another gives other numbers. A "
            "difference counts as noise where the sign test over the rounds has p >= 0.05, "
            f"and below {_SAME_LATENCY:.0%}, where another process may turn it around."
        )
    return notes
