"""The command line, with a module for each command.

Nothing here imports a machine learning library, because `semtag --help` must answer at once.
"""

import argparse
import sys
from collections.abc import Sequence

from semtag.cluster.stage_process import name_error, print_anywhere
from semtag.commands import (
    audit_scorer,
    evaluate,
    fork,
    judge,
    pairs,
    preview,
    push,
    rank,
    report,
    run,
    submit,
    tag,
    train,
    verify,
)
from semtag.configs.errors import UserError

EPILOG = """\
examples:
  semtag run configs/demo.yaml                          the whole job on this machine, 22 minutes
  semtag run configs/demo.yaml data.path=my.jsonl run.name=mine
  semtag run configs/zephyr_squad.yaml --dry-run        what a run would do
  semtag preview configs/demo.yaml data.path=my.jsonl   ten texts with candidates, scores and pairs
  semtag submit configs/cluster_millions.yaml           the whole job on a Ray cluster
  semtag verify runs/demo                               check that no text was lost
  semtag tag runs/demo --data news.jsonl --out tagged.jsonl data.column=body
  semtag fork runs/demo other pairs.strategy=all_pairs  other pairs from the same candidates
  semtag judge runs/demo                                make a page for a blind comparison of base and tuned

Semtag keeps a run in <run.root>/<run.name>. The same command again resumes the run.
Every key is explained in configs/schema.py, data.py, evaluation.py, rounds.py, scoring.py and training.py.
A key of type text takes all that follows the = as it is, without quotes. null empties a key that may be empty."""

# In the order of the help.
COMMANDS = {
    "run": run,
    "rank": rank,
    "pairs": pairs,
    "train": train,
    "evaluate": evaluate,
    "preview": preview,
    "submit": submit,
    "fork": fork,
    "verify": verify,
    "audit-scorer": audit_scorer,
    "report": report,
    "push": push,
    "tag": tag,
    "judge": judge,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `semtag` script; return the exit status: 0 for success, 1 for a failure, 2 for a UserError."""
    print_anywhere()
    arguments = _parse(argv)
    try:
        return COMMANDS[arguments.command].run(arguments)
    except (UserError, OSError) as error:
        user_error = error if isinstance(error, UserError) else name_error(error)
        if user_error is None:
            raise
        print(f"error: {user_error}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments. Overrides may also stand behind options, where argparse does not look for overrides."""
    parser = build_parser()
    arguments, left = parser.parse_known_args(argv)
    if "overrides" in arguments and all("=" in one and not one.startswith("-") for one in left):
        arguments.overrides += left
    elif left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="semtag",
        description="Turns a pile of texts into a tagger, without one human label.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        more = getattr(command, "MORE", "")
        own = commands.add_parser(name, help=command.HELP, description=f"semtag {name}: {command.HELP}. {more}")
        command.add(own)
    return parser
