"""`semtag fork`: a run with other settings that takes over what another run has done already."""

from argparse import ArgumentParser, Namespace

from semtag.commands.arguments import add_run
from semtag.forking import config_of_fork, fork, lines_of, plan_fork
from semtag.job import do_steps
from semtag.store.locations import explain_store_errors
from semtag.store.run_dir import RunDir

HELP = "make a run with other settings, which takes over the steps that they do not change"
MORE = (
    "The new run has the settings of RUN but for the key=value given. It takes over the files of each finished step, "
    "up to the first one whose settings differ, and does the others. Another rule for pairs, another loss or another "
    "evaluation so costs no sampling. Files are linked and take no room twice; either run can be deleted."
)


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    parser.add_argument("name", metavar="NAME", help="name of the new run, beside RUN unless run.root is given")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes of keys, such as training.beta=0.5")
    parser.add_argument("--dry-run", action="store_true", help="print what would be taken over, and do nothing")
    parser.add_argument("--only", action="store_true", help="take over and stop, for example to submit the rest")
    parser.add_argument("--verbose", action="store_true", help="show the output of libraries, instead of logging it")


def run(arguments: Namespace) -> int:
    """Make the run and do its other steps; return the exit status."""
    source = RunDir(arguments.run)
    with explain_store_errors(source.path):
        config = config_of_fork(source, arguments.name, arguments.overrides)
        if arguments.dry_run:
            print(*lines_of(source, config, plan_fork(source, config)), sep="\n")
            return 0
        made = fork(source, config, print)
    if arguments.only:
        print(f"next: semtag run {made.layout.config}")
        return 0
    return do_steps(config, verbose=arguments.verbose)
