"""The stages of a run, in their order: what does them, what they count, and which config keys shape what they make."""

from typing import NamedTuple


class Stage(NamedTuple):
    """A stage: the module that does it as a process, the unit of its progress, and what its command says of it.

    `keys` are sections of the config, or single keys; a stage that has begun pins their values for the run.
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
        "data -> distinct texts, split into train, validation and held-out ones",
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
        "pairs -> adapter, and the weights with it merged in",
        in_each_round=True,
    ),
    "validate": Stage(
        "semtag.evaluation.validate",
        "answers",
        ("run.seed",),
        "the validation texts, answered by a round's model -> its gain",
        in_each_round=True,
    ),
    "evaluate": Stage(
        "semtag.evaluation.evaluate",
        "answers",
        ("run.seed", "evaluation."),
        "base against tuned on the held-out texts -> report",
    ),
}
