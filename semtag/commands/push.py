"""`semtag push`: the tagger on the Hugging Face hub, or on a hub of one's own that HF_ENDPOINT names."""

from argparse import ArgumentParser, Namespace

from semtag.commands.arguments import add_run
from semtag.store.locations import naming_store
from semtag.store.run_dir import RunDir

HELP = "put the tagger on the Hugging Face hub, in a private repository"


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    parser.add_argument("name", metavar="OWNER/NAME", help="the repository; made where there is none")
    parser.add_argument("--merged", action="store_true", help="the whole model, in place of the adapter")
    parser.add_argument("--public", action="store_true", help="make a new repository public")


def run(arguments: Namespace) -> int:
    """Upload, and print the commit's address."""
    from semtag.training.push import push

    run = RunDir(arguments.run)
    with naming_store(run.path):
        config = run.config()
        with run.lock():
            print(push(run, config, arguments.name, arguments.merged, arguments.public))
    return 0
