"""`semtag report`: a run's page again, or a page that compares several runs."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semtag.configs.errors import UserError
from semtag.store.run_dir import RunDir

HELP = "write a run's report.html again, or compare several runs"
MORE = (
    "Several runs give tables on the terminal and a page: what came of each run, the first run's tagger against the "
    "others on the texts that the runs share, and the settings that differ."
)


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directory, for example runs/demo")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page of a comparison; default comparison.html")


def run(arguments: Namespace) -> int:
    """Write the page; print the path of a run's page, or the table of several runs."""
    runs = [RunDir(name) for name in arguments.runs]
    if len(runs) > 1:
        from semtag.evaluation.report.compare_runs import compare_runs

        print(compare_runs(runs, arguments.out or Path("comparison.html")))
    elif arguments.out:
        problem = "--out is the page of a comparison, and a comparison needs several runs."
        raise UserError(problem, "Name another run, or leave --out out.")
    else:
        from semtag.evaluation.report.html import rewrite

        print(rewrite(runs[0]))
    return 0
