"""Arguments that several commands take, and what those do that do steps of a run."""

import argparse
from argparse import ArgumentParser, Namespace

from semtag.configs.load import load_config
from semtag.job import do_steps
from semtag.store.layout import Step


def add_config(parser: ArgumentParser) -> None:
    """Add the config and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or the name of a shipped config such as demo")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides, such as training.beta=0.5")


def add_steps(parser: ArgumentParser) -> None:
    """Add what a command takes that does steps of a run."""
    add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    parser.add_argument("--verbose", action="store_true", help="show what the libraries print, instead of logging it")


def add_round(parser: ArgumentParser) -> None:
    """Add what a command takes that does a step of a round."""
    add_steps(parser)
    parser.add_argument("--round", type=positive, default=1, metavar="N", help="the round; default %(default)s")


def add_run(parser: ArgumentParser) -> None:
    """Add a run's directory."""
    parser.add_argument("run", metavar="RUN", help="run directory, for example runs/demo")


def positive(text: str) -> int:
    """Read a whole number from 1; argparse shows what is wrong."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def do(arguments: Namespace, steps: set[Step] | None = None) -> int:
    """Do the steps, or all, of the run that the arguments name; returns the exit status."""
    config = load_config(arguments.config, arguments.overrides)
    return do_steps(config, steps, arguments.dry_run, arguments.verbose)
