"""The arms of an evaluation, and the contrasts between arms, which are named before anything is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import NamedTuple

from semtag.configs.schema import Config
from semtag.generation.decoding import Decoding, ShownExamples, greedy, read_examples, sampled

BASE, TUNED, PEOPLE = "base", "tuned", "people"
KEYPHRASES = "keyphrases"  # the model of the arms that have none
UNTRAINED = ("base_plain", "base_grammar", "base_examples", BASE)  # one greedy answer each
EQUAL_WORDS = "equal words"  # the family of arms that are cut
# Arms without a word limit of their own are compared at the tagger's number of words, text by text.
CUT = ("first_words", "yake", "keybert", "keybert_mmr", PEOPLE)
# The same decoding on both sides. `tuned` against `base_plain` is such a pair, and stands among the primary ones.
ALIKE = (("tuned_constrained", "base_grammar"), ("tuned_vote", "base_vote"))


@dataclass(frozen=True)
class Arm:
    """A way to get tags: a model, or none, and how the model is asked.

    `family` names the contrast of the tagger with this arm; empty where there is none.
    """

    name: str
    model: str
    means: str
    decoding: Decoding | None = None
    family: str = ""

    @property
    def cost(self) -> int:
        """Answers that a language model writes for each text."""
        return self.decoding.samples if self.decoding else 0


class Pairing(NamedTuple):
    """A contrast of two arms: how far `first` lies above `second`."""

    family: str
    first: str
    second: str


def arms_of(config: Config, others: Sequence[int]) -> list[Arm]:
    """Return the arms in the order of the report; `others` are the trained rounds that did not deliver.

    `tuned`, the untrained arms of one answer and the taggers of other runs are always there. YAKE, which is under the
    GPL, is there only where it is installed.
    """
    wanted = {TUNED, *UNTRAINED, *config.evaluation.arms, *map(tagger_name, config.evaluation.taggers)}
    wanted -= set() if find_spec("yake") else {"yake"}
    wanted |= {f"round_{number}" for number in others if "rounds" in wanted}
    arms = [*_untrained(config), *_trained(config, others), *_taggers(config), *_extractors()]
    return [_limited(arm, config.evaluation.max_tokens) for arm in arms if arm.name in wanted]


def _limited(arm: Arm, max_tokens: int | None) -> Arm:
    """Return the arm with answers of at most `max_tokens` tokens, if set."""
    if not max_tokens or not arm.decoding:
        return arm
    return replace(arm, decoding=replace(arm.decoding, max_tokens=max_tokens))


def _untrained(config: Config) -> Iterator[Arm]:
    """Yield the ways to ask the untouched model. Without examples in the prompt, `base` answers within the grammar."""
    shown, evaluation = read_examples(config.prompt), config.evaluation
    both = "after the prompt's examples and within the grammar" if shown else "within the grammar"

    def ask(name: str, how: str, constrained: bool = False, examples: ShownExamples = ()) -> Arm:
        decoding = greedy(config, name, constrained, examples)
        return Arm(name, BASE, f"the untouched model, greedily, {how}", decoding, "primary")

    yield ask(BASE, both, constrained=True, examples=shown)
    yield ask("base_plain", "by the plain prompt")
    if shown:
        yield ask("base_grammar", "by the plain prompt and within the grammar", constrained=True)
        yield ask("base_examples", "after the prompt's examples", examples=shown)
    samples, untouched = config.sampling.samples, "the untouched model"
    best = sampled(config, "base_best", samples, constrained=True, examples=shown)
    yield Arm(
        "base_best", BASE, f"{untouched}, the best of {samples} samples by the score, {both}", best, "best of many"
    )
    vote = sampled(config, "base_vote", evaluation.votes, constrained=True, vote=True, examples=shown)
    yield Arm("base_vote", BASE, f"{untouched}, a vote over {evaluation.votes} samples, {both}", vote)


def _trained(config: Config, others: Sequence[int]) -> Iterator[Arm]:
    how, votes = "greedily, by the plain prompt", config.evaluation.votes
    for number in others:
        name = f"round_{number}"
        yield Arm(name, name, f"the model of round {number}, {how}", greedy(config, name), "rounds")
    yield Arm(TUNED, TUNED, f"the tagger as delivered: {how}", greedy(config, TUNED))
    fenced = greedy(config, "tuned_constrained", constrained=True)
    yield Arm("tuned_constrained", TUNED, "the tagger, greedily, within the grammar", fenced)
    vote = sampled(config, "tuned_vote", votes, vote=True)
    yield Arm("tuned_vote", TUNED, f"the tagger, a vote over {votes} samples", vote)


def tagger_name(place: str) -> str:
    """Return the name of the arm of another run's tagger. Example: `runs/control` becomes `tagger_control`."""
    return f"tagger_{PurePosixPath(place).name}"


def _taggers(config: Config) -> Iterator[Arm]:
    for place in config.evaluation.taggers:
        name = tagger_name(place)
        yield Arm(
            name, name, f"the tagger of {place}, greedily, by the plain prompt", greedy(config, name), "other runs"
        )


def _extractors() -> Iterator[Arm]:
    closest = "KeyBERT, the text's phrases that the scoring model finds closest"
    yield Arm("first_words", KEYPHRASES, "the first words of the text", family=EQUAL_WORDS)
    yield Arm("yake", KEYPHRASES, "YAKE, keyphrases by the statistics of the text", family=EQUAL_WORDS)
    yield Arm("keybert", KEYPHRASES, closest, family=EQUAL_WORDS)
    yield Arm("keybert_mmr", KEYPHRASES, f"{closest}, unlike each other", family=EQUAL_WORDS)


def people(config: Config) -> Arm:
    """Return the arm of the keyphrases that people gave the texts."""
    means = f"people's own keyphrases, of the column {config.evaluation.keys_column}"
    return Arm(PEOPLE, PEOPLE, means, family=EQUAL_WORDS)


def pairings(arms: Sequence[Arm]) -> list[Pairing]:
    """Return the contrasts between the arms that are there, in the order of the report."""
    names = {arm.name for arm in arms}
    with_tagger = [Pairing(arm.family, TUNED, arm.name) for arm in arms if arm.family]
    alike = [Pairing("same decoding", *pair) for pair in ALIKE]
    return [one for one in (*with_tagger, *alike) if {one.first, one.second} <= names]
