"""`semtag audit-scorer`: which hacks score above honest tags, before anything is trained."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from semtag.cluster.progress import Progress
from semtag.cluster.text_table import text_table
from semtag.commands.arguments import add_config, positive
from semtag.configs.load import load_config

if TYPE_CHECKING:
    from semtag.scoring.audit import Audit, HackResult

HELP = "score hacks beside honest tags, before anything is trained"
MORE = (
    "A hack is a list of tags that a text does not deserve, such as its first words or another text's tags. A tagger "
    "that is trained on the score learns the hacks that win. Honest tags are people's keyphrases in a column of the "
    "data, or the best candidates of a run that has been ranked. Each hack passes the parser first: `refused` counts "
    "those that the form refuses. Long tags are refused as in training, by prompt.max_tag_words and "
    "pairs.max_tag_words, and words have the price pairs.word_price. Set these keys to see which hacks they close."
)


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--honest",
        metavar="COLUMN",
        help="column with a list of honest tags for each text; default: the ranked run's best candidates, or else "
        "evaluation.keys_column",
    )
    parser.add_argument(
        "--texts", type=positive, default=200, metavar="N", help="texts, chosen by hash; default %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every list with its scores to a new file")


def run(arguments: Namespace) -> int:
    """Print the matrix, and write the file if named; return 0."""
    config = load_config(arguments.config, arguments.overrides)
    # These load heavy libraries.
    from transformers.utils.logging import disable_progress_bar

    from semtag.scoring.audit import audit, honest_texts, write_audit
    from semtag.scoring.criteria import Criteria, own_scorers
    from semtag.scoring.embedder import Embedder

    disable_progress_bar()
    with Progress("audit", "texts") as progress:
        texts = honest_texts(config, arguments.honest, arguments.texts, progress.say)
        criteria = Criteria(config.scoring, own_scorers(config.scoring))
        embedder = criteria.embedder or Embedder(config.scoring)
        found = audit(texts, config, embedder.texts, criteria.score, progress)
    print(*lines_of(found), sep="\n")
    if arguments.json:
        write_audit(found, arguments.json)
    return 0


def lines_of(found: "Audit") -> list[str]:
    """Format the matrix for a terminal: a hack a line, those that win most cells first."""
    hacks = sorted(found.hacks, key=lambda one: (_lost(one), one.cells - one.refused), reverse=True)
    rows = [("hack", "texts", "honest wins", "hack wins", "refused", "mean honest", "mean hack"), *map(_row, hacks)]
    benign, cells = found.benign, sum(one.cells for one in found.hacks)
    return [
        *text_table(rows, right=range(1, 7)),
        "",
        f"The honest tags of {found.texts:,} texts hold {found.share:.1%} of {cells:,} cells, "
        f"and {found.share_of_valid:.1%} of those that the form lets through, with {found.model}.",
        f"Order, case and spacing move a score by {benign.largest:.3f} at most (bound {benign.bound:g}; "
        f"{benign.above:.1%} of the edits are above).",
    ]


def _lost(one: "HackResult") -> float:
    return (one.cells - one.won - one.refused) / max(1, one.cells)


def _row(one: "HackResult") -> tuple[str, ...]:
    """Format a hack; a hack that applies to no text is shown by dashes."""
    if not one.cells:
        return (one.hack, *["-"] * 6)
    means = ["-" if mean is None else f"{mean:.3f}" for mean in (one.honest, one.score)]
    counts = (one.cells, one.won, one.cells - one.won - one.refused, one.refused)
    return (one.hack, *(f"{count:,}" for count in counts), *means)
