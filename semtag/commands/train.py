"""`semtag train`: the training of a round."""

from argparse import Namespace

from semtag.commands.arguments import add_round, do
from semtag.store.layout import Step
from semtag.store.stages import STAGES

HELP = STAGES["train"].help
add = add_round


def run(arguments: Namespace) -> int:
    """Do the step, if it is not done yet; return the exit status."""
    return do(arguments, {Step("train", arguments.round)})
