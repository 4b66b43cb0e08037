"""Semtag in Python: the functions behind the commands, the pairs of a run, and its tagger.

>>> import semtag
>>> semtag.load_config("demo", training={"beta": 0.5}).training.beta
0.5

`semtag.run("demo", run={"name": "mine"}, data={"path": "texts.jsonl"})` does a whole run. Each section of the config is
a keyword argument, with the section's keys as in YAML. `semtag.Tagger("runs/mine")` tags texts. A heavy library is
imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from semtag.tagger import Answer, Tagger

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset

    from semtag.configs.schema import Config
    from semtag.store.run_dir import RunDir

__all__ = ["Answer", "Tagger", "evaluate", "fork", "load_config", "load_pairs", "pairs", "rank", "run", "train"]
PAIR_COLUMNS = ["prompt", "chosen", "rejected", "text_id", "margin"]


def load_config(config: "str | Path", **sections: dict[str, Any]) -> "Config":
    """Read a YAML file, or a shipped config by its bare name, and change keys of its sections.

    Raises UserError for a missing or malformed file, an unknown key or an invalid value.
    """
    from semtag.configs.load import load_config as load

    return load(config, sections=sections)


def run(config: "str | Path", **sections: dict[str, Any]) -> "RunDir":
    """Do all steps of a run that are not done yet; return the run.

    Progress and the message of a failed step go to standard output. Raises UserError for a problem found before a step
    begins, and RuntimeError for a step that fails.
    """
    return _do(config, sections)


def rank(config: "str | Path", round: int = 1, **sections: dict[str, Any]) -> "RunDir":
    """Prepare the texts and make the ranked lists of a round; otherwise like `run`."""
    return _do(config, sections, ("texts", 0), ("rank", round))


def pairs(config: "str | Path", round: int = 1, **sections: dict[str, Any]) -> "RunDir":
    """Make the pairs and lists of a round; otherwise like `run`."""
    return _do(config, sections, ("pairs", round))


def train(config: "str | Path", round: int = 1, **sections: dict[str, Any]) -> "RunDir":
    """Train on the pairs or lists of a round; otherwise like `run`."""
    return _do(config, sections, ("train", round))


def evaluate(config: "str | Path", **sections: dict[str, Any]) -> "RunDir":
    """Write the report of a run; otherwise like `run`."""
    return _do(config, sections, ("evaluate", 0))


def fork(source: "str | Path | RunDir", name: str, **sections: dict[str, Any]) -> "RunDir":
    """Make a run with other settings that takes over the steps of `source` which they do not change.

    The other steps are done as by `run`. Return the new run, which lies beside `source`. Raises UserError if nothing
    can be taken over; otherwise like `run`.
    """
    from semtag.forking import config_of_fork
    from semtag.forking import fork as make
    from semtag.store.run_dir import RunDir

    origin = source if isinstance(source, RunDir) else RunDir(str(source))
    config = config_of_fork(origin, name, sections=sections)
    return _do_loaded(config, make(origin, config, print))


def load_pairs(run: "str | Path | RunDir", round: int | None = None) -> "Dataset":
    """Load the preference pairs of a round, as TRL's trainers take them.

    The default round is the round of the tagger. `prompt`, `chosen` and `rejected` are chat messages. `margin` is the
    gap in score, null for a format pair. Raises UserError for a folder that is no run, and for a round without pairs.
    """
    from pathlib import Path

    from semtag.configs.errors import UserError
    from semtag.store.locations import cache_folder, local_folder, uri
    from semtag.store.rounds import delivered_round
    from semtag.store.run_dir import RunDir
    from semtag.training.tokenized import load_rows

    own = run if isinstance(run, RunDir) else RunDir(str(run))
    own.config()  # raises UserError where there is no run
    number = round or delivered_round(own)
    folder = own.layout.round(number).pairs
    if not folder.exists():
        raise UserError(f"{own.path} holds no pairs of round {number}.", f"Do `semtag pairs --round {number}` first.")
    rows = load_rows(Path(local_folder(uri(folder))), "pairs", cache_folder() / "pairs")
    return rows.select_columns(PAIR_COLUMNS)


def _do(config: "str | Path", sections: dict[str, Any], *steps: tuple[str, int]) -> "RunDir":
    """Do the steps, each a stage and its round, or all steps if none is given; return the run."""
    from semtag.store.run_dir import RunDir

    loaded = load_config(config, **sections)
    return _do_loaded(loaded, RunDir.of(loaded), *steps)


def _do_loaded(config: "Config", run: "RunDir", *steps: tuple[str, int]) -> "RunDir":
    from semtag.job import do_steps
    from semtag.store.layout import Step

    if status := do_steps(config, {Step(*step) for step in steps} or None):
        raise RuntimeError(f"A step failed with exit status {status}. The step's log is in {run.layout.logs}.")
    return run
