"""Three pictures of a search, each drawn on axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_SIZE = 15
_UNUSED = -0.15


def draw_objective(
    axes: Any, scores: Sequence[float | None], objective: str, direction: str
) -> None:
    """Draws what each trial came to, and the best so far.

    Args:
        axes: `matplotlib.axes.Axes`.
        scores: For each trial in order a number, or `None` where it failed.
        objective: String, its name.
        direction: `"min"` or `"max"`.
    """
    best_of = np.fmax if direction == "max" else np.fmin
    numbers = np.array([np.nan if s is None else s for s in scores], float)
    at = np.arange(1, len(numbers) + 1)
    best = best_of.accumulate(numbers)
    axes.step(at, best, where="post", color="tab:orange", linewidth=2.5, label="best so far")
    axes.plot(at, numbers, "o", color="tab:blue", markersize=8, alpha=0.75, label="trial")
    failed = at[np.isnan(numbers)]
    if len(failed):
        # At the bad end, whatever the numbers are.
        place = np.full(len(failed), 0.03 if direction == "max" else 0.97)
        where = axes.get_xaxis_transform()
        axes.plot(failed, place, "x", color="black", transform=where, label="failed")
    if np.isfinite(numbers).any():
        winner = int(np.nanargmax(numbers) if direction == "max" else np.nanargmin(numbers))
        axes.plot(
            at[winner],
            numbers[winner],
            "*",
            color="tab:red",
            markersize=20,
            label=f"best: trial {at[winner]}, {numbers[winner]:.4g}",
        )
    axes.set_xlabel("trial", fontsize=_SIZE)
    axes.set_ylabel(objective, fontsize=_SIZE)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=_SIZE - 2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=_SIZE - 2)


def draw_importance(axes: Any, shares: dict[str, tuple[float, float]], objective: str) -> None:
    """Draws a bar for each parameter, the longest on top.

    Args:
        axes: `matplotlib.axes.Axes`.
        shares: Dictionary from a name to the share of the variance and its spread over the trees.
        objective: String, its name.
    """
    names = sorted(shares, key=lambda name: shares[name][0])
    values = [100 * shares[name][0] for name in names]
    spread = [100 * shares[name][1] for name in names]
    at = np.arange(len(names))
    # A share is in [0, 1], whatever the spread.
    ends = [np.minimum(values, spread), np.clip(100 - np.array(values), 0, spread)]
    axes.barh(at, values, xerr=ends, color="tab:blue", ecolor="gray", capsize=4)
    axes.set_yticks(at, names)
    axes.set_xlabel(f"share of the variance of {objective}, %", fontsize=_SIZE)
    axes.set_title(
        "What the objective depends on (lines: spread over a random forest)", fontsize=_SIZE - 2
    )
    axes.tick_params(labelsize=_SIZE - 2)
    axes.grid(axis="x", alpha=0.3)


def draw_parallel(
    axes: Any,
    columns: dict[str, tuple[np.ndarray, dict[float, str]]],
    scores: np.ndarray,
    objective: str,
    direction: str,
) -> None:
    """Draws a line for each trial through its values, colored by what it came to.

    Args:
        axes: `matplotlib.axes.Axes`.
        columns: Dictionary from a name to the places in [0, 1] of each trial's value, NaN where it
            plays no part (drawn below all values), and labels at places.
        scores: Array of what the trials came to.
        objective: String, its name.
        direction: `"min"` or `"max"`.
    """
    from matplotlib import cm, colors

    names = list(columns)
    # By rank: one bad trial would take the colors of all others.
    rising = scores if direction == "max" else -scores
    ranks = np.unique(rising, return_inverse=True)[1]
    norm = colors.Normalize(0, max(1, ranks.max()))
    shade = cm.ScalarMappable(norm, "viridis")
    places = np.array([columns[name][0] for name in names]).reshape(len(names), len(scores))
    unused = np.isnan(places)
    places = np.where(unused, _UNUSED, places)
    best = int(np.argmax(rising))
    for trial in sorted(range(len(scores)), key=lambda t: ranks[t]):
        is_best = trial == best
        axes.plot(
            range(len(names)),
            places[:, trial],
            color="tab:red" if is_best else shade.to_rgba(ranks[trial]),
            linewidth=4 if is_best else 1.8,
            marker="o",
            alpha=1 if is_best else 0.8,
            zorder=3 if is_best else 2,
            label=f"best: {scores[trial]:.4g}" if is_best else None,
        )
    for i, name in enumerate(names):
        axes.axvline(i, color="black", linewidth=0.8)
        labels = {_UNUSED: "unused"} if unused[i].any() else {}
        for place, label in {**columns[name][1], **labels}.items():
            axes.annotate(
                label, (i, place), xytext=(6, 0), textcoords="offset points",
                fontsize=_SIZE - 5, va="center", zorder=4,
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "lw": 0},
            )  # fmt: skip
    few = len(names) <= 5
    axes.set_xticks(
        range(len(names)), names, rotation=0 if few else 30, ha="center" if few else "right"
    )
    axes.set_xlim(-0.2, len(names) - 1 + 0.15 * max(1, len(names) - 1))
    axes.set_ylim(_UNUSED - 0.05 if unused.any() else -0.05, 1.04)
    axes.set_yticks([])
    axes.tick_params(labelsize=_SIZE - 3)
    bar = axes.figure.colorbar(shade, ax=axes, ticks=[0, norm.vmax])
    ends = (
        (np.min(scores), np.max(scores)) if direction == "max" else (np.max(scores), np.min(scores))
    )
    bar.ax.set_yticklabels([f"{end:.4g}" for end in ends], fontsize=_SIZE - 3)
    bar.set_label(f"{objective}, by rank", fontsize=_SIZE - 2)
    axes.legend(fontsize=_SIZE - 3, loc="lower right", bbox_to_anchor=(1, 1))
    for side in axes.spines.values():
        side.set_visible(False)
