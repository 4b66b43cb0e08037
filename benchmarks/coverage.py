"""Do the 95 % intervals of the report cover what they should? Simulated measures whose true means are known.

    python -m benchmarks.coverage --json coverage.json

Each kind of interval is computed for many simulated evaluations: of one arm's mean and of the difference of two arms,
on independent texts and on articles of unequal sizes. A cell is the percentage of these intervals that hold the truth,
with their mean width behind it. Cells in bold are below --bound, or 1.5 points below that with up to 30 texts or
articles; then the exit status is 1.
"""

import argparse
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from scipy.stats import beta

from benchmarks.contest import machine, markdown, publish
from semtag.evaluation.measures import repeated
from semtag.evaluation.statistics import Interval, difference_interval, mean_interval

SIZES = {"texts": (30, 150, 1000), "articles": (20, 35, 100)}
FEW, SLACK = 30, 0.015  # with so few texts or articles, the bound is lower by this much
ARTICLE_SIZE = 10  # texts of an article on average; an article has at least one, and some have fifty
ARTICLE, TEXT = 0.15, 0.5  # shares of a value's variance, on the normal scale, that the article and the text explain
ALIKE = 0.83  # the text's share where the two arms' answers are much alike
GRID = 20_000

# Suffixes of array names: N texts, C articles, G equally likely values of a measure, V tags, K places in an answer.
Draw = Callable[[np.random.Generator, np.ndarray], list[np.ndarray]]


class Case(NamedTuple):
    """A measure of one arm, or of two: its values by a generator and the articles of N texts, and its true figure.

    `of_pairs`: the figure is of pairs of texts, so within articles it depends on their number. The truth is then the
    mean over the simulations.
    """

    of: str
    draw: Draw
    truth: float
    bounded: bool = True
    of_pairs: bool = False


class Cell(NamedTuple):
    """What was found for a case and a number of texts or articles."""

    of: str
    arms: int
    by: str
    units: int
    coverage: float
    width: float
    bound: float


def share(mean: float) -> np.ndarray:
    """Return the values of a yes-or-no measure, shape [G]."""
    return np.asarray(np.arange(GRID) >= (1 - mean) * GRID, dtype=float)


def ranks(found: float, nothing: float = 0.0) -> np.ndarray:
    """Return reciprocal ranks, shape [G], where each place finds the text with the same probability; 0 without tags."""
    shares_G = (np.arange(GRID) + 0.5) / GRID
    places_G = 1 + np.floor(np.log1p(-shares_G) / np.log1p(-found))
    return np.where(shares_G[::-1] < nothing, 0.0, 1 / places_G)[::-1]


def curve(first: float, second: float, nothing: float) -> np.ndarray:
    """Return values of a beta distribution, with a share of zeros, shape [G]."""
    shares_G = (np.arange(GRID) + 0.5) / GRID
    return np.where(shares_G < nothing, 0.0, beta.ppf((shares_G - nothing) / (1 - nothing), first, second))


def words(tags: float) -> np.ndarray:
    """Return numbers of words of an answer, shape [G]: one and more, few of them many."""
    return np.asarray(1 + np.sort(np.random.default_rng(0).negative_binomial(3, 3 / (3 + tags), GRID)), dtype=float)


def normal(rng: np.random.Generator, clusters_N: np.ndarray, arms: int, text: float = TEXT) -> list[np.ndarray]:
    """Draw a standard normal value of each text for each arm; articles and texts make them alike."""
    clusters = int(clusters_N.max()) + 1
    article = ARTICLE if clusters < len(clusters_N) else 0.0
    of_article_N, of_text_N = rng.normal(size=clusters)[clusters_N], rng.normal(size=len(clusters_N))
    shared_N = article**0.5 * of_article_N + text**0.5 * of_text_N
    return [shared_N + (1 - article - text) ** 0.5 * rng.normal(size=len(clusters_N)) for _ in range(arms)]


def measured(of: str, *grids: np.ndarray, bounded: bool = True, text: float = TEXT) -> Case:
    """Make a case of one or two measures, each given by its sorted values of shape [G]."""

    def draw(rng: np.random.Generator, clusters_N: np.ndarray) -> list[np.ndarray]:
        places = [(ndtr(one_N) * GRID).astype(int) for one_N in normal(rng, clusters_N, len(grids), text)]
        return [grid_G[np.minimum(place_N, GRID - 1)] for grid_G, place_N in zip(grids, places, strict=True)]

    means = [float(grid_G.mean()) for grid_G in grids]
    return Case(of, draw, means[0] - sum(means[1:]), bounded)


def zipf(tags: int, power: float) -> np.ndarray:
    """Return the probabilities of tags whose frequency falls with their rank, shape [V]."""
    weights_V = np.arange(1, tags + 1) ** -power
    return np.asarray(weights_V / weights_V.sum())


def same_tags(of: str, *arms: tuple[np.ndarray, ...]) -> Case:
    """Make a case of `repeated`. Each place in an arm's answer has tags of its own, whose probabilities are given."""

    def draw(rng: np.random.Generator, clusters_N: np.ndarray) -> list[np.ndarray]:
        columns: list[list[list[str]]] = [[] for _ in arms]  # of each arm: the tags of all texts, place by place
        for place in range(len(arms[0])):
            for arm, one_N in enumerate(normal(rng, clusters_N, len(arms))):
                drawn_N = np.searchsorted(np.cumsum(arms[arm][place]), ndtr(one_N))
                columns[arm].append([f"{place} {tag}" for tag in drawn_N])
        return [repeated(list(zip(*own, strict=True))) for own in columns]

    # Two texts share a tag where both draw it at the same place.
    means = [float((np.concatenate(arm) ** 2).sum()) / len(arm) for arm in arms]
    return Case(of, draw, means[0] - sum(means[1:]), of_pairs=True)


def cases() -> Iterator[Case]:
    """Yield all cases: each measure by itself, then the differences of two arms."""
    few, many = zipf(16, 0.5), zipf(3000, 1.0)
    for mean in (0.5, 0.9, 0.98):
        yield measured(f"well formed, {mean:g}", share(mean))
    for found in (0.4, 0.85, 0.97):
        yield measured(f"reciprocal rank, first for {found:g}", ranks(found))
    yield measured("reciprocal rank, first for 0.9, 0.03 without tags", ranks(0.9, 0.03))
    yield measured("F1, 0 for 0.6", curve(2, 3, 0.6))
    yield measured("F1, 0 for 0.9", curve(2, 3, 0.9))
    yield measured("similarity", curve(5, 8, 0.02), bounded=False)
    yield measured("words", words(4), bounded=False)
    yield same_tags("same tags", (few, many, many))
    yield same_tags("same tags, without generic ones", (many, many, many))

    for first, second in ((0.6, 0.5), (0.9, 0.9), (0.98, 0.9), (0.98, 0.98), (1.0, 0.98)):
        yield measured(f"well formed, {first:g} and {second:g}", share(first), share(second))
    for first, second in ((0.5, 0.4), (0.85, 0.85), (0.97, 0.85), (0.97, 0.97)):
        yield measured(f"reciprocal rank, {first:g} and {second:g}", ranks(first), ranks(second))
        yield measured(f"reciprocal rank, {first:g} and {second:g}, alike", ranks(first), ranks(second), text=ALIKE)
    yield measured("reciprocal rank, without tags 0.03 and 0", ranks(0.9, 0.03), ranks(0.9))
    yield measured("F1, 0 for 0.5 and 0.6", curve(2, 3, 0.5), curve(2, 3, 0.6))
    yield measured("F1, 0 for 0.8 and 0.9", curve(2, 3, 0.8), curve(2, 3, 0.9))
    yield measured("similarity", curve(6, 8, 0.0), curve(5, 8, 0.02), bounded=False)
    yield measured("words, and 1.5 times of them", words(6), 1.5 * words(4), bounded=False)
    yield same_tags("same tags", (few, many, many), (zipf(8, 0.5), few, many))


def articles(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw the sizes of articles, and return the article of each of their texts, shape [N]."""
    sizes_C = 1 + rng.negative_binomial(1.5, 1.5 / (1.5 + ARTICLE_SIZE - 1), size=count)
    return np.repeat(np.arange(count), sizes_C)


def interval(values: list[np.ndarray], clusters_N: np.ndarray, bounded: bool) -> Interval:
    """Compute the report's interval of one arm's mean, or of the difference of two arms."""
    if len(values) == 1:
        return mean_interval(values[0], clusters_N, bounded)
    return difference_interval(values[0], values[1], clusters_N, bounded)


def simulate(case: Case, by: str, units: int, simulations: int, bound: float) -> Cell:
    """Simulate evaluations of a case, and count the intervals that hold the truth."""
    rng = np.random.default_rng(zlib.crc32(f"{case.of} {by} {units}".encode()))
    found, values = [], list[np.ndarray]()
    for _ in range(simulations):
        clusters_N = np.arange(units) if by == "texts" else articles(rng, units)
        values = case.draw(rng, clusters_N)
        found.append(interval(values, clusters_N, case.bounded))
    value, low, high = np.array(found, dtype=float).T
    truth = float(value.mean()) if case.of_pairs and by == "articles" else case.truth
    held = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
    least = bound - SLACK * (units <= FEW)
    return Cell(case.of, len(values), by, units, float(held.mean()), float((high - low).mean()), least)


def table(cells: Sequence[Cell]) -> str:
    """Return a table of the share covered, with the mean width behind it; a row a case, a column a number of units."""
    columns = [(by, units) for by, several in SIZES.items() for units in several]
    rows: dict[tuple[int, str], list[str]] = {}
    for one in cells:
        shown = f"{100 * one.coverage:.1f}"
        shown = f"**{shown}**" if one.coverage < one.bound else shown
        rows.setdefault((one.arms, one.of), [("mean", "difference")[one.arms - 1], one.of]).append(
            f"{shown} ({one.width:.2g})"
        )
    return markdown(["interval of", "measure", *(f"{units} {by}" for by, units in columns)], list(rows.values()))


def main() -> None:
    """Print the table, and exit with status 1 where a cell is below the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="evaluations of each cell (%(default)s)")
    parser.add_argument("--bound", type=float, default=0.935, help="least share that holds the truth (%(default)s)")
    parser.add_argument("--only", default="", help="measures whose names have this word")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    started = time.monotonic()
    cells = [
        simulate(case, by, units, arguments.simulations, arguments.bound)
        for case in cases()
        if arguments.only in case.of
        for by, several in SIZES.items()
        for units in several
    ]
    below = [one for one in cells if one.coverage < one.bound]
    result = {"machine": machine(), "simulations": arguments.simulations, "seconds": time.monotonic() - started}
    result |= {"below": len(below), "cells": [one._asdict() for one in cells]}
    publish(result, table(cells), arguments.json)
    sys.exit(1 if below else 0)


if __name__ == "__main__":
    main()
