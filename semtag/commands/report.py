"""`semtag report`: a run's page again, or a page that compares several runs."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semtag.configs.errors import UserError
from semtag.store.run_dir import RunDir

HELP = "write a run's report.html again, or compare several runs"
MORE = (
    "Several runs give a table here and a page of its own: how well their models do, which gates failed, and which "
    "settings differ."
)


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directory, for example runs/demo")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page of a comparison; default comparison.html")


def run(arguments: Namespace) -> int:
    """Write the page; print where it is, or how the runs compare."""
    runs = [RunDir(name) for name in arguments.runs]
    if len(runs) > 1:
        from semtag.evaluation.compare_runs import compare_runs

        print(compare_runs(runs, arguments.out or Path("comparison.html")))
    elif arguments.out:
        raise UserError("--out is where a comparison goes, and that needs several runs.", "Name another run.")
    else:
        from semtag.evaluation.report import rewrite

        print(rewrite(runs[0]))
    return 0
