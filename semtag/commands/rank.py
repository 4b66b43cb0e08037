"""`semtag rank`: the texts, and the ranked lists of a round."""

from argparse import Namespace

from semtag.commands.arguments import add_round, do
from semtag.store.layout import Step
from semtag.store.stages import STAGES

HELP = STAGES["rank"].help
add = add_round


def run(arguments: Namespace) -> int:
    """Do the texts step and the rank step, if they are not done yet; return the exit status."""
    return do(arguments, {Step("texts"), Step("rank", arguments.round)})
