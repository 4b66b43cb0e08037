"""`semtag push`: the upload of the tagger to the Hugging Face hub, or to the hub at HF_ENDPOINT."""

from argparse import ArgumentParser, Namespace

from semtag.commands.arguments import add_run
from semtag.store.locations import explain_store_errors
from semtag.store.run_dir import RunDir

HELP = "upload the tagger to the Hugging Face hub, into a private repository"


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    parser.add_argument("name", metavar="OWNER/NAME", help="the repository; Semtag makes a missing one")
    parser.add_argument("--merged", action="store_true", help="upload the whole model, in place of the adapter")
    parser.add_argument("--public", action="store_true", help="make a new repository public")


def run(arguments: Namespace) -> int:
    """Upload the tagger, and print the address of the commit."""
    from semtag.training.push import push

    run = RunDir(arguments.run)
    with explain_store_errors(run.path):
        config = run.config()
        with run.lock():
            print(push(run, config, arguments.name, arguments.merged, arguments.public))
    return 0
