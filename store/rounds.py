"""Which model a round starts from, which rounds are made, and which one delivers the tagger."""

from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.store.layout import Step
from semtag.store.locations import uri
from semtag.store.manifest import StepCounts
from semtag.store.run_dir import RunDir


def base_of(config: Config) -> str:
    """The base model's name as all that load it take it, with `@` and the revision where one is set."""
    return f"{config.model.base}@{config.model.revision}" if config.model.revision else config.model.base


def start_of(run: RunDir, config: Config, number: int) -> str:
    """The model that round `number` samples from and trains: the base model, or what the round before came to."""
    return uri(run.layout.round(number - 1).merged) if number > 1 else base_of(config)


def last_round(run: RunDir, config: Config) -> int:
    """The round after which there is none: the last one, or the first that gained nothing."""
    for number in range(1, config.rounds.count):
        gain = validation(run, number).get("gain", {})
        if gain.get("high") is not None and gain["high"] < config.rounds.least_gain:
            return number
    return config.rounds.count


def trained_rounds(run: RunDir) -> list[int]:
    """The rounds whose training is done, in order."""
    return sorted(step.round for step in run.done() if step.stage == "train")


def delivered_round(run: RunDir) -> int:
    """The round whose model is the tagger: of the trained ones that with the best mean score on validation texts.

    Without validation it is the last one. Raises UserError where no round is trained.
    """
    trained = trained_rounds(run)
    if not trained:
        raise UserError(f"{run.path} holds no tagger yet.", "Do `semtag run` or `semtag train` first.")
    scores = {number: validation(run, number).get("mean_score") for number in trained}
    known = {number: score for number, score in scores.items() if score is not None}
    return max(known, key=lambda number: known[number]) if known else trained[-1]


def validation(run: RunDir, number: int) -> StepCounts:
    """What the validation of a round counted; nothing where there was none."""
    return run.counts(Step("validate", number))


def round_lines(run: RunDir, config: Config) -> list[str]:
    """A line a round: form, score and gain of its model on the validation texts; and which one is the tagger."""
    lines = []
    for number in trained_rounds(run):
        counts = validation(run, number)
        if "gain" not in counts:
            continue
        gain = counts["gain"]
        line = (
            f"round {number}: {counts['well_formed']:.1%} well formed, mean score {counts['mean_score']:.3f}, "
            f"gain {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] on {counts['texts']} validation texts"
        )
        nothing = gain["high"] < config.rounds.least_gain
        lines.append(f"{line}; it gained nothing" if nothing else line)
    return [*lines, f"the tagger is the model of round {delivered_round(run)}"] if lines else []
