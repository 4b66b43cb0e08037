"""`semtag tag`: the tagging of a corpus of the user's."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semtag.commands.arguments import positive
from semtag.tag_job import tag

HELP = "tag your corpus with a run's tagger or any model; the same command again resumes"
MORE = "The output has the data's rows in order, with tags. A row that cannot be tagged goes to FILE.rejects.jsonl."


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "run", metavar="MODEL", help="a run directory, for example runs/demo, or a model's path or hub name"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes of keys, such as data.column=body")
    parser.add_argument("--data", required=True, metavar="DATA", help="data to tag: all that data.path takes")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new .jsonl, .csv or .parquet file")
    parser.add_argument(
        "--votes", type=positive, default=1, metavar="N", help="take the tags with most votes in N samples; default 1"
    )
    parser.add_argument("--constrained", action="store_true", help="force the tag format (slower)")
    parser.add_argument("--base", action="store_true", help="use the base model without the adapter")
    parser.add_argument("--score", action="store_true", help="fill tags_score, the cosine of a text and its tags")
    parser.add_argument(
        "--answers",
        type=Path,
        metavar="FOLDER",
        help="keep the answers in a folder, and ask the tagger only about texts that have no answer of its there",
    )


def run(arguments: Namespace) -> int:
    """Tag the data, or resume an earlier attempt; return the exit status."""
    return tag(
        arguments.run,
        arguments.data,
        Path(arguments.out),
        arguments.overrides,
        votes=arguments.votes,
        base=arguments.base,
        score=arguments.score,
        constrained=arguments.constrained,
        answers=arguments.answers,
    )
