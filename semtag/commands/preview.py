"""`semtag preview`: a few texts with their candidates, scores and pairs, before a run spends anything."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semtag.cluster.progress import Progress
from semtag.commands.arguments import add_config, positive
from semtag.configs.load import load_config

HELP = "show a few texts with their candidates, scores and pairs"
MORE = (
    "Samples, scores and pairs the first texts of the data as round 1 would, on this machine and without a run. Read "
    "what the model answers, which answers the score prefers and which rows are rejected, before a cluster does it for "
    "all texts. Caps over all texts, such as pairs.format_share, are not applied."
)


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        "--texts", type=positive, default=10, metavar="N", help="texts from the beginning of the data; default 10"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the preview as a page too, such as preview.html"
    )


def run(arguments: Namespace) -> int:
    """Print the preview, and write the page if named; return 0."""
    config = load_config(arguments.config, arguments.overrides)
    # These load heavy libraries.
    from transformers.utils.logging import disable_progress_bar

    from semtag.plan import check_model
    from semtag.preview import lines_of, page_of, preview

    disable_progress_bar()
    check_model(config)
    with Progress("preview", "texts") as progress:
        found = preview(config, arguments.texts, progress.say)
    print(*lines_of(found), sep="\n")
    if arguments.page:
        arguments.page.write_text(page_of(found, f"{config.run.name}: preview"), encoding="utf-8")
        print(f"page: {arguments.page}")
    return 0
