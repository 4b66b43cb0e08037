"""`semtag pairs`: the pairs and lists of a round."""

from argparse import Namespace

from semtag.commands.arguments import add_round, do
from semtag.store.layout import Step
from semtag.store.stages import STAGES

HELP = STAGES["pairs"].help
add = add_round


def run(arguments: Namespace) -> int:
    """Do the step, if it is not done yet; return the exit status."""
    return do(arguments, {Step("pairs", arguments.round)})
