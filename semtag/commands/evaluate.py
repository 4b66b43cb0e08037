"""`semtag evaluate`: the report of a run."""

from argparse import Namespace

from semtag.commands.arguments import add_steps, do
from semtag.store.layout import Step
from semtag.store.stages import STAGES

HELP = STAGES["evaluate"].help
add = add_steps


def run(arguments: Namespace) -> int:
    """Do the step, if it is not done yet; return the exit status."""
    return do(arguments, {Step("evaluate")})
