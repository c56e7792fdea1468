"""A report that sets models side by side: what it holds, and its forms as text, Markdown, JSON."""

import dataclasses
import io
import json
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_optkit.compression.export.files import require_writable, write_atomically
from keras_optkit.compression.export.measure import Accuracy, Latency
from keras_optkit.compression.export.trade_off_figure import Point, draw
from keras_optkit.core.messages import did_you_mean

_ABSENT = "-"


@dataclasses.dataclass(frozen=True)
class FileStats:
    """What was measured on one `.tflite` file.

    Args:
        bytes: Integer, the size of the file, or `None` where the conversion was refused.
        gzip_bytes: Integer, its size after gzip.
        accuracy: An `Accuracy`.
        latency: A `Latency`.
        float_operations: List of strings, the operations that compute in float32.
        error: String, why there is no such file, or `None`.
    """

    bytes: int | None = None
    gzip_bytes: int | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    float_operations: Sequence[str] = ()
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelStats:
    """What was measured on one model.

    Args:
        parameters: Integer, the number of parameters.
        nonzero: Integer, how many of them are not exactly zero.
        accuracy: The `Accuracy` of the Keras model.
        keras_bytes: Integer, the size of its `.keras` file, without the optimizer's state.
        keras_gzip_bytes: Integer, the size of that file after gzip.
        files: Dictionary from a quantization's name to the `FileStats` of that `.tflite` file.
        flops: Integer, what `count_flops` counts for one sample, or `None` where it cannot.
    """

    parameters: int
    nonzero: int
    accuracy: Accuracy
    keras_bytes: int
    keras_gzip_bytes: int
    files: Mapping[str, FileStats]
    flops: int | None = None


@dataclasses.dataclass(frozen=True)
class _Added:
    values: Sequence[Any]
    format: str | Callable[[Any], str]


class Report:
    """Models side by side, one column for each, made by `compare`.

    Args:
        models: Dictionary from a model's name to its `ModelStats`; the first is the baseline.
        notes: Sentences on what the numbers say.

    Example:

    ```python
    report = keras_optkit.export.compare({"original": a, "pruned": b}, (x_test, y_test))
    report.add("training time", {"original": 61.2, "pruned": 64.0}, "{:.1f} s")
    report.print()
    report.save("report.json")  # or "report.md"
    report.plot("report.png")
    ```
    """

    def __init__(self, models: Mapping[str, ModelStats], notes: Sequence[str] = ()):
        self.models = dict(models)
        self.notes = list(notes)
        self._added: dict[str, _Added] = {}

    def add(
        self,
        name: str,
        values: Mapping[str, Any] | Sequence[Any],
        format: str | Callable[[Any], str] = "{}",
    ) -> "Report":
        """Adds a quantity of your own, a line in the table with a value for each model.

        Args:
            name: String, what it is called.
            values: A dictionary by model name, or a sequence in the order of the models, of
                numbers, strings and `None` (shown as "-"). A model that is not in the dictionary
                has `None`.
            format: How a value is shown: a format string, such as `"{:.1f} s"`, or a function.

        Returns:
            The report itself.

        Raises:
            ValueError: If the name is taken, a model is unknown, or a value is none of these.
        """
        if name in self._added:
            raise ValueError(f"The report has that line already. Received: name={name!r}")
        if isinstance(values, Mapping):
            for model in values:
                if model not in self.models:
                    raise ValueError(
                        f"The report has no model {model!r}. {did_you_mean(model, self.models)} "
                        f"Received: values={values!r}"
                    )
            values = [values.get(model) for model in self.models]
        if isinstance(values, str) or len(values) != len(self.models):
            raise ValueError(
                f"`values` must have one entry for each of {list(self.models)}. "
                f"Received: values={values!r}"
            )
        plain = [v.item() if hasattr(v, "item") else v for v in values]
        for value in plain:
            if not isinstance(value, (int, float, str, type(None))):
                raise ValueError(
                    "`values` must be numbers, strings or None, which JSON can hold. "
                    f"Received: {value!r}"
                )
        added = _Added(plain, format)
        try:
            [_show(value, format) for value in plain]
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise ValueError(
                f"`format` does not fit the values: {error}. Received: format={format!r}, "
                f"values={plain!r}"
            ) from error
        self._added[name] = added
        return self

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as dictionaries, lists, strings, numbers and `None`."""
        models = {}
        for i, (name, stats) in enumerate(self.models.items()):
            models[name] = dataclasses.asdict(stats)
            for file in models[name]["files"].values():
                file["float_operations"] = list(file["float_operations"])
            models[name]["added"] = {key: added.values[i] for key, added in self._added.items()}
        return {"models": models, "notes": list(self.notes)}

    def save(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` as JSON, or `to_markdown()` if the name ends in `.md`, in one step.

        Args:
            path: The file to write; its directory must exist.

        Raises:
            ValueError: If the path cannot be written to, or ends in the suffix of a picture.
        """
        path = require_writable(path)
        suffix = os.path.splitext(path)[1].lower()
        if suffix in (".png", ".pdf", ".svg", ".jpg"):
            raise ValueError(f"A picture is written by `plot`. Received: path={path!r}")
        if suffix == ".md":
            text = self.to_markdown()
        else:
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())

    def plot(self, path: str | os.PathLike) -> None:
        """Draws accuracy against size and against latency, a point for each file, as a PNG file.

        Bars are the accuracies' intervals. The Pareto front is marked: the files that no other one
        beats in cost and accuracy at once. What is within noise the notes say.

        Args:
            path: The file to write, in one step; its directory must exist. A name without a suffix
                gets `.png`.

        Raises:
            ValueError: If the name ends in another suffix, the path cannot be written to, or no
                file was measured.
        """
        path = require_writable(path)
        suffix = os.path.splitext(path)[1]
        if suffix.lower() not in ("", ".png"):
            raise ValueError(f"The picture is a PNG file; name it so. Received: path={path!r}")
        points, latency = [], None
        for name, stats in self.models.items():
            for kind, file in stats.files.items():
                if file.accuracy is not None and file.latency is not None:
                    latency = file.latency
                    median = latency.median_ms
                    points.append(Point(name, kind, file.bytes, median, file.accuracy))
        if latency is None:
            raise ValueError(
                "The report has no `.tflite` file that was measured, so there is nothing to draw. "
                f"Received: models={list(self.models)}"
            )
        picture = io.BytesIO()
        figure = draw(points, latency.batch_size, latency.threads)
        figure.savefig(picture, format="png", dpi=80)
        write_atomically(path if suffix else f"{path}.png", picture.getvalue())

    def to_markdown(self) -> str:
        """Returns the table and the notes as Markdown."""

        def line(cells):
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        lines = [line(["", *self.models]), line(["---", *["---:"] * len(self.models)])]
        lines += [line(row) for section in self._sections() for row in section]
        lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines).strip() + "\n"

    def print(self) -> None:
        """Prints the table and the notes to the terminal."""
        from rich.console import Console
        from rich.text import Text

        console = Console()
        console.print(self._table())
        for note in self.notes:
            console.print(Text(f"- {note}"))

    def __str__(self):
        from rich.console import Console

        text = io.StringIO()
        # Wide enough that no cell is cut; a table takes only what it needs.
        Console(file=text, width=10_000, color_system=None).print(self._table())
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        for note in self.notes:
            lines += textwrap.wrap(f"- {note}", 100, subsequent_indent="  ")
        return "\n".join(lines)

    def _repr_markdown_(self):
        return self.to_markdown()

    def _table(self):
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("")
        for name in self.models:
            table.add_column(Text(name), justify="right")
        for section in self._sections():
            for row in section:
                table.add_row(*map(Text, row))
            table.add_section()
        return table

    def _sections(self) -> list[list[list[str]]]:
        """The lines of the table, each a label and a cell for each model, in groups."""
        stats = list(self.models.values())
        general = [
            ["parameters", *(f"{s.parameters:,}" for s in stats)],
            ["non-zero parameters", *(_with_share(s.nonzero, s.parameters) for s in stats)],
            ["FLOPs", *(_show(s.flops, "{:,}") for s in stats)],
            ["accuracy, Keras", *(_accuracy(s.accuracy) for s in stats)],
            [".keras bytes", *(f"{s.keras_bytes:,}" for s in stats)],
            [".keras bytes, gzip", *(f"{s.keras_gzip_bytes:,}" for s in stats)],
        ]
        sections = [general]
        for kind in dict.fromkeys(kind for s in stats for kind in s.files):
            files = [s.files.get(kind, FileStats()) for s in stats]
            sections.append(
                [
                    [f"{kind} .tflite bytes", *(_show(f.bytes, "{:,}") for f in files)],
                    [f"{kind} .tflite bytes, gzip", *(_show(f.gzip_bytes, "{:,}") for f in files)],
                    [f"{kind} accuracy", *(_show(f.accuracy, _accuracy) for f in files)],
                    [f"{kind} latency, median", *(_show(f.latency, _median) for f in files)],
                    [f"{kind} latency, p95", *(_show(f.latency, _p95) for f in files)],
                ]
            )
        if self._added:
            sections.append(
                [[n, *(_show(v, a.format) for v in a.values)] for n, a in self._added.items()]
            )
        return sections


def _show(value: Any, format: str | Callable[[Any], str]) -> str:
    if value is None:
        return _ABSENT
    return format(value) if callable(format) else format.format(value)


def _with_share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"


def _accuracy(accuracy: Accuracy) -> str:
    return f"{accuracy.value:.2%} [{accuracy.low:.2%}, {accuracy.high:.2%}]"


def _median(latency: Latency) -> str:
    return f"{latency.median_ms:.3g} ms"


def _p95(latency: Latency) -> str:
    return f"{latency.p95_ms:.3g} ms"
