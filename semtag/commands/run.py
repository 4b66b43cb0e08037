"""`semtag run`: all steps of a run."""

from argparse import Namespace

from semtag.commands.arguments import add_steps, do

HELP = "do all steps: texts, rounds of rank, pairs, train and validate, then evaluate; resumes a run"
add = add_steps


def run(arguments: Namespace) -> int:
    """Do all steps that are not done yet; return the exit status."""
    return do(arguments)
