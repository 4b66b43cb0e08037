"""`semtag verify`: the checks of a run, each with its problems."""

from argparse import ArgumentParser, Namespace

from semtag.commands.arguments import add_run
from semtag.store.locations import explain_store_errors
from semtag.store.run_dir import RunDir

HELP = "check a run's files against every invariant; exit status 0 or 1"
SHOWN = 20  # problems of a check, at most


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)


def run(arguments: Namespace) -> int:
    """Print each check with its problems; return 0 when every check passes, else 1."""
    from semtag.verify import verify

    run = RunDir(arguments.run)
    with explain_store_errors(run.path):
        run.config()  # raises UserError first, because a folder that is no run gets no lock file
        with run.lock(reading=True):
            found = verify(run)
    for name, problems in found.items():
        print(f"  {'FAIL' if problems else 'ok':<5} {name}")
        for problem in problems[:SHOWN]:
            print(f"        {problem}")
        if len(problems) > SHOWN:
            print(f"        and {len(problems) - SHOWN:,} more")
    bad = sum(map(len, found.values()))
    outcome = f"{bad:,} problems" if bad else "every check passes" if found else "no step is done yet"
    print(f"{arguments.run}: {outcome}")
    return 1 if bad else 0
