"""`semtag submit`: a run, or one stage of it, as a job of a Ray cluster."""

from argparse import ArgumentParser, Namespace

from semtag.cluster.submit import submit
from semtag.commands.arguments import add_config

HELP = "the same as a job of a Ray cluster, whose log is followed"
COMMANDS = ("run", "rank", "pairs", "train", "evaluate")


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument("--stage", choices=COMMANDS, default="run", help="what to do there; all, unless given")
    parser.add_argument(
        "--address", metavar="URL", default="http://127.0.0.1:8265", help="Ray's dashboard; default %(default)s"
    )
    parser.add_argument("--working-dir", metavar="DIR", default=".", help="what is sent, less what .gitignore names")
    parser.add_argument("--no-wait", action="store_true", help="send the job and return")


def run(arguments: Namespace) -> int:
    """Send the job, and follow it unless told otherwise."""
    return submit(
        arguments.config,
        arguments.overrides,
        arguments.stage,
        arguments.address,
        arguments.working_dir,
        not arguments.no_wait,
    )
