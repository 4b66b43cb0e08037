"""The report's pictures, on a transparent ground so that they suit light and dark pages."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

BASE, TUNED, INK, LOUD = "#9a8c98", "#2a9d8f", "#808890", "#e76f51"
plt.rcParams.update(
    {
        "figure.figsize": (6.4, 3.4),
        "figure.dpi": 130,
        "figure.autolayout": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "savefig.transparent": True,
    }
)


def similarity_histogram(histogram: dict[str, list[float]], file: Path) -> None:
    """Similarities of the valid answers of both models over the same bins."""
    _, axes = plt.subplots()
    values = [*histogram["base"], *histogram["tuned"], 0.0]
    bins = np.linspace(min(values), max(*values, 0.1), 36).tolist()
    for arm, colour in (("base", BASE), ("tuned", TUNED)):
        scores = histogram[arm]
        label = f"{arm}: {len(scores)} valid answers" + (f", mean {np.mean(scores):.3f}" if scores else "")
        axes.hist(scores, bins=bins, alpha=0.6, color=colour, label=label)
        if scores:
            axes.axvline(float(np.mean(scores)), color=colour, linewidth=2, linestyle="--")
    axes.set_xlabel("similarity of tags and text")
    axes.set_ylabel("answers")
    _save(file)


def paired_differences(differences: list[float], mean: dict[str, float | None], file: Path) -> None:
    """Tuned less base, text by text, with the mean and its interval; bins are laid so that 0 is an edge."""
    _, axes = plt.subplots()
    widest = max(*map(abs, differences), 0.05)
    counts, edges = np.histogram(differences, bins=np.linspace(-widest, widest, 41))
    colours = [TUNED if left >= 0 else BASE for left in edges[:-1] + 1e-9]
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colours, alpha=0.6)
    axes.axvline(0, color=INK, linewidth=1)
    value, low, high = (mean[name] for name in ("value", "low", "high"))
    if value is not None and low is not None and high is not None:
        axes.axvspan(low, high, color=LOUD, alpha=0.25, linewidth=0)
        axes.axvline(value, color=LOUD, linewidth=2, label=f"mean {value:+.3f}, {low:+.3f} to {high:+.3f}")
    axes.set_xlabel("similarity, tuned less base")
    axes.set_ylabel("texts")
    _save(file)


def training_curves(curve: list[dict[str, float]], file: Path) -> None:
    """Loss, and nats per token of the chosen and the rejected answers beside IPO's target margin.

    A warm start by likelihood has a loss alone.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4))
    steps, target = np.arange(1, len(curve) + 1), curve[-1].get("nats_per_token/target")
    left.plot(steps, [entry["loss"] for entry in curve], color=TUNED)
    left.set_ylabel("loss")
    left.set_xlabel("step")
    right.set_visible(target is not None)
    if target is not None:
        for name, colour in (("chosen", TUNED), ("rejected", BASE), ("margin", LOUD)):
            right.plot(steps, [entry[f"nats_per_token/{name}"] for entry in curve], color=colour, label=name)
        right.axhline(0, color=INK, linewidth=0.6)
        right.set_ylabel(f"nats per token (target margin {target:g})")
        right.set_xlabel("step")
        right.legend()
    _save(file)


def defects(counts: dict[str, dict[str, int]], file: Path) -> None:
    """How the answers of both models are malformed, by reason."""
    _, axes = plt.subplots()
    reasons = sorted({*counts["base"], *counts["tuned"]}, key=lambda reason: (-counts["base"].get(reason, 0), reason))
    places = np.arange(len(reasons))
    for arm, colour, shift in (("base", BASE, -0.2), ("tuned", TUNED, 0.2)):
        axes.barh(places + shift, [counts[arm].get(reason, 0) for reason in reasons], 0.4, color=colour, label=arm)
    axes.set_yticks(places, [reason.replace("_", " ") for reason in reasons])
    axes.invert_yaxis()
    axes.set_xlabel("malformed answers")
    _save(file)


def margins(histogram: dict[str, Any], file: Path) -> None:
    """How far apart the answers of the similarity pairs score."""
    _, axes = plt.subplots()
    edges = np.array(histogram["edges"])
    label = f"{sum(histogram['counts']):,} similarity pairs, beside {histogram['format']:,} format pairs"
    axes.bar(edges[:-1], histogram["counts"], width=np.diff(edges), align="edge", color=TUNED, alpha=0.7, label=label)
    axes.set_xlabel("score gap of chosen and rejected")
    axes.set_ylabel("pairs")
    _save(file)


def _save(file: Path) -> None:
    axes = plt.gca()
    if axes.get_legend_handles_labels()[0] and not axes.get_legend():
        # Above the plot, where nothing is drawn.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    plt.savefig(file)
    plt.close()
