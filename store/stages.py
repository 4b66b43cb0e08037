"""The stages of a run, in order: their modules, units of progress, and the config keys that shape their results."""

from typing import NamedTuple


class Stage(NamedTuple):
    """A stage: the module that runs as its process, the unit of its progress, and the help of its command.

    `keys` are sections of the config (`data.`) or single keys (`run.seed`). Once the stage has begun, a run can no
    longer change the values of `keys`.
    """

    module: str
    unit: str
    keys: tuple[str, ...]
    help: str
    in_each_round: bool = False


STAGES = {
    "texts": Stage(
        "semtag.generation.texts",
        "rows",
        ("run.seed", "data.", "rounds.count", "rounds.texts", "rounds.validation", "rounds.max_validation"),
        "data -> distinct texts, split into train, validation and held-out texts",
    ),
    "rank": Stage(
        "semtag.scoring.rank",
        "texts",
        ("run.seed", "model.", "prompt.", "sampling.", "scoring."),
        "texts -> candidates -> scores -> ranked lists",
        in_each_round=True,
    ),
    "pairs": Stage(
        "semtag.scoring.build_pairs",
        "lists",
        ("run.seed", "pairs."),
        "ranked lists -> preference pairs and lists",
        in_each_round=True,
    ),
    "train": Stage(
        "semtag.training.train",
        "steps",
        ("run.seed", "training."),
        "pairs or lists -> adapter and merged weights",
        in_each_round=True,
    ),
    "validate": Stage(
        "semtag.evaluation.validate",
        "answers",
        ("run.seed",),
        "validation texts -> answers of the round's model -> gain",
        in_each_round=True,
    ),
    "evaluate": Stage(
        "semtag.evaluation.evaluate",
        "answers",
        ("run.seed", "evaluation."),
        "base against tuned on the held-out texts -> report",
    ),
}
