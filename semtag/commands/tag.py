"""`semtag tag`: a corpus of the user's, tagged."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semtag.commands.arguments import positive
from semtag.tag_job import tag

HELP = "tag a corpus of yours with a run's tagger or any model; the same command again resumes"
MORE = "Every row comes out with its tags, in the data's order."


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "run", metavar="MODEL", help="a run directory, for example runs/demo, or a model's path or hub name"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, such as data.column=body")
    parser.add_argument("--data", required=True, metavar="DATA", help="what to tag: all that data.path takes")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new .jsonl, .csv or .parquet file")
    parser.add_argument(
        "--votes", type=positive, default=1, metavar="N", help="tags that most of N samples name; default: greedy"
    )
    parser.add_argument("--constrained", action="store_true", help="force the tag format; costs some speed")
    parser.add_argument("--base", action="store_true", help="ask the base model, without what tuning made of it")
    parser.add_argument("--score", action="store_true", help="say how similar tags and text are")


def run(arguments: Namespace) -> int:
    """Tag, or go on where an earlier attempt stopped."""
    return tag(
        arguments.run,
        arguments.data,
        Path(arguments.out),
        arguments.overrides,
        votes=arguments.votes,
        base=arguments.base,
        score=arguments.score,
        constrained=arguments.constrained,
    )
