"""Pictures in files."""

import os
from collections.abc import Callable
from typing import Any


def save_picture(path: str | os.PathLike, draw: Callable[[Any], None]) -> None:
    """Draws one panel and writes it as a PNG file.

    Args:
        path: The file to write; its directory must exist. A name without a suffix gets `.png`.
        draw: A function of `matplotlib.axes.Axes`, which draws on them.

    Raises:
        ValueError: If the name ends in another suffix.
    """
    # Not pyplot, so that the user's figures and choice of window stay as they are.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = os.fspath(path)
    suffix = os.path.splitext(path)[1]
    if suffix.lower() not in ("", ".png"):
        raise ValueError(f"The picture is a PNG file; name it so. Received: path={path!r}")
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    figure.savefig(path if suffix else path + ".png", format="png", dpi=120)
