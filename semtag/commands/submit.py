"""`semtag submit`: a run, or one stage of a run, as a job of a Ray cluster."""

from argparse import ArgumentParser, Namespace

from semtag.cluster.submit import submit
from semtag.commands.arguments import add_config

HELP = "do a run, or one stage, as a job of a Ray cluster, and follow the job's log"
COMMANDS = ("run", "rank", "pairs", "train", "evaluate")


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument("--stage", choices=COMMANDS, default="run", help="the job's command; default %(default)s")
    parser.add_argument(
        "--address", metavar="URL", default="http://127.0.0.1:8265", help="Ray's dashboard; default %(default)s"
    )
    parser.add_argument("--working-dir", metavar="DIR", default=".", help="folder to send, less .gitignore's files")
    parser.add_argument("--no-wait", action="store_true", help="send the job and return")


def run(arguments: Namespace) -> int:
    """Send the job, and follow its log unless --no-wait is set; return the exit status."""
    return submit(
        arguments.config,
        arguments.overrides,
        arguments.stage,
        arguments.address,
        arguments.working_dir,
        not arguments.no_wait,
    )
