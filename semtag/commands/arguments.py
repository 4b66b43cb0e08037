"""Arguments that several commands share, and the start of a run's steps from a command."""

import argparse
from argparse import ArgumentParser, Namespace

from semtag.configs.load import load_config
from semtag.job import do_steps
from semtag.store.layout import Step


def add_config(parser: ArgumentParser) -> None:
    """Add the arguments of a config and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or the name of a shipped config such as demo")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="changes of keys, such as training.beta=0.5")


def add_steps(parser: ArgumentParser) -> None:
    """Add the arguments of a command that does steps of a run."""
    add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--verbose", action="store_true", help="show the output of libraries, instead of logging it")


def add_round(parser: ArgumentParser) -> None:
    """Add the arguments of a command that does a step of a round."""
    add_steps(parser)
    parser.add_argument("--round", type=positive, default=1, metavar="N", help="round number; default %(default)s")


def add_run(parser: ArgumentParser) -> None:
    """Add the argument of a run directory."""
    parser.add_argument("run", metavar="RUN", help="run directory, for example runs/demo")


def positive(text: str) -> int:
    """Read a whole number from 1. Raises ValueError or ArgumentTypeError, which argparse shows."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def do(arguments: Namespace, steps: set[Step] | None = None) -> int:
    """Do the steps, or all steps, of the run that the arguments name; return the exit status."""
    config = load_config(arguments.config, arguments.overrides)
    return do_steps(config, steps, arguments.dry_run, arguments.verbose)
