"""`semtag run`: all steps of a run."""

from argparse import Namespace

from semtag.commands.arguments import add_steps, do

HELP = "all steps: texts, rounds of ranking, pairs, training, validation; evaluation; resumes"
add = add_steps


def run(arguments: Namespace) -> int:
    """Do what is not done yet."""
    return do(arguments)
