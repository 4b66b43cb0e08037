"""`semtag judge`: a blind comparison of two arms' tags, by a person or by a language model."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from semtag.cluster.stage_process import as_process
from semtag.commands.arguments import add_run, positive
from semtag.configs.errors import UserError
from semtag.store.locations import explain_store_errors
from semtag.store.run_dir import RunDir

HELP = "compare two arms' tags blindly: by a person, on a page, or by a language model"
MORE = (
    "Without --results and --model, Semtag makes the page for a person. Judgements in RUN/judgement also stand on the "
    "run's report. With sampling.engine=openai and sampling.endpoint=URL, --model is a server's name of its model."
)


def add(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser)
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes of keys for serving --model")
    parser.add_argument("--first", default="base", metavar="ARM", help="an arm of the evaluation; default %(default)s")
    parser.add_argument("--second", default="tuned", metavar="ARM", help="the other arm; default %(default)s")
    parser.add_argument("--count", type=positive, default=50, metavar="N", help="texts to judge; default %(default)s")
    parser.add_argument("--out", metavar="FILE", help="new file; default in RUN/judgement")
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--results", nargs="+", type=Path, metavar="FILE", help="analyse the page's files, and those of models beside"
    )
    way.add_argument("--model", metavar="MODEL", help="path, hub name, or a server's name of the judge")


def run(arguments: Namespace) -> int:
    """Make the page, analyse its results, or have a language model judge.

    Returns 0. Raises UserError for options that exclude each other.
    """
    if arguments.overrides and not arguments.model:
        raise UserError(f"{arguments.overrides[0]} has no effect without --model.", "Overrides go with --model.")
    run, first, second, out = RunDir(arguments.run), arguments.first, arguments.second, arguments.out
    with explain_store_errors(run.path):
        run.config()  # raises UserError where there is no run
        # Each branch imports its own module, because `semtag --help` must load no heavy library.
        if arguments.results:
            from semtag.evaluation.judging.people import analyse_files

            analyse_files(run, first, second, arguments.results, out)
        elif model := arguments.model:
            from semtag.evaluation.judging.model import judge

            asked = (model, arguments.overrides, first, second, arguments.count, out)
            as_process(run, "judge", "answers", lambda progress: judge(run, *asked, progress))
        else:
            from semtag.evaluation.judging.page import make_page

            make_page(run, first, second, arguments.count, out)
        if (arguments.results or arguments.model) and not out and run.layout.page.exists():
            from semtag.evaluation.report.html import rewrite

            print(rewrite(run))
    return 0
