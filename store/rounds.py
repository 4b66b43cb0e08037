"""The rounds of a run: the model that each round starts from, the last round, and the round of the tagger."""

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.store.layout import Step
from semtag.store.locations import uri
from semtag.store.manifest import StepCounts
from semtag.store.run_dir import RunDir


def base_of(config: Config) -> str:
    """Return the name by which all stages load the base model: with `@REVISION` if model.revision is set."""
    return f"{config.model.base}@{config.model.revision}" if config.model.revision else config.model.base


def start_of(run: RunDir, config: Config, number: int) -> str:
    """Return the model that round `number` samples from and trains: the base, or the previous merged weights."""
    return uri(run.layout.round(number - 1).merged) if number > 1 else base_of(config)


def last_round(run: RunDir, config: Config) -> int:
    """Return the last round to make: `rounds.count`, or the first round that gained nothing."""
    for number in range(1, config.rounds.count):
        gain = validation(run, number).get("gain", {})
        if gain.get("high") is not None and gain["high"] < config.rounds.least_gain:
            return number
    return config.rounds.count


def trained_rounds(run: RunDir) -> list[int]:
    """Return the rounds whose training is done, in order."""
    return sorted(step.round for step in run.done() if step.stage == "train")


def delivered_round(run: RunDir) -> int:
    """Return the round whose model is the tagger: the trained round with the best mean score on validation texts.

    Without validation, the last trained round is the tagger's. Raises UserError when no round is trained.
    """
    trained = trained_rounds(run)
    if not trained:
        raise UserError(f"{run.path} holds no tagger yet.", "Do `semtag run` or `semtag train` first.")
    scores = {number: validation(run, number).get("mean_score") for number in trained}
    known = {number: score for number, score in scores.items() if score is not None}
    return max(known, key=lambda number: known[number]) if known else trained[-1]


def validation(run: RunDir, number: int) -> StepCounts:
    """Return the counts of a round's validation; empty if the round was not validated."""
    return run.counts(Step("validate", number))


def round_lines(run: RunDir, config: Config) -> list[str]:
    """Return a line for each validated round, and a line that names the tagger's round.

    A round's line has the share of valid answers, the mean score and the gain of its model on the validation texts.
    """
    lines = []
    for number in trained_rounds(run):
        counts = validation(run, number)
        if "gain" not in counts:
            continue
        gain = counts["gain"]
        known = gain["high"] is not None  # of one text there is no interval
        between = f" [{gain['low']:+.3f}, {gain['high']:+.3f}]" if known else ""
        line = (
            f"round {number}: {counts['well_formed']:.1%} valid, mean score {counts['mean_score']:.3f}, "
            f"gain {gain['value']:+.3f}{between} on {counts['texts']} validation texts"
        )
        nothing = known and gain["high"] < config.rounds.least_gain
        lines.append(f"{line}; this round gained nothing" if nothing else line)
    return [*lines, f"the tagger is the model of round {delivered_round(run)}"] if lines else []
