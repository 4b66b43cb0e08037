"""The page of `semtag judge`, on which a person compares two arms' tags blindly. people.py reads what came of it."""

import numpy as np
from scipy.stats import binom

from semtag.evaluation.judging.outcomes import new_file
from semtag.evaluation.judging.selection import Selection, select
from semtag.evaluation.report.page import for_script, render_page
from semtag.store.locations import write_text
from semtag.store.run_dir import RunDir

RATE, POWER = 0.65, 0.8
MOST = 1000  # decided texts that are looked through


def make_page(run: RunDir, first: str, second: str, count: int, out: str | None) -> None:
    """Write the page, and say what to do with it."""
    file = new_file(run, out, "judge.html")
    selection = select(run, first, second, count)
    write_text(file, render(selection))
    arms = "" if (first, second) == ("base", "tuned") else f" --first {first} --second {second}"
    print(f"{file}\n{selection.story}")
    print(
        f"Where one arm is better on {RATE:.0%} of the texts that a judge decides, {decided_needed(RATE, POWER)} "
        f"decided texts show the difference with a power of {POWER:.0%} (two-sided sign test at 5%)."
    )
    print(f"Open the page in a browser, judge, save; then: semtag judge {run.path}{arms} --results FILE")


def render(selection: Selection) -> str:
    """Render the page as one file that loads nothing, and runs nothing but its own script."""
    data = for_script({"page": selection.page, "items": selection.shown})
    return render_page("judge.html.j2", "judge", count=len(selection.shown), data=data)


def decided_needed(rate: float, power: float) -> int:
    """Compute from how many decided texts on the exact two-sided sign test at 5 % has this power, at least 0.05.

    `rate` is the true share of wins, in [0.6, 1). The power of an exact test goes up and down with the number of texts,
    so the last number without the power counts.
    """
    texts_N = np.arange(1, MOST + 1)
    most_N = binom.isf(0.025, texts_N, 0.5)  # more wins than this are significant, and as many losses
    power_N = binom.sf(most_N, texts_N, rate) + binom.cdf(texts_N - most_N - 1, texts_N, rate)
    return int(texts_N[power_N < power].max()) + 1
