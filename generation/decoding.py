"""How a model is asked: the one record that says it, handed from whoever asks to the sampler."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from semtag.configs.errors import UserError
from semtag.configs.schema import Config, Example, Prompt
from semtag.generation.parse import answer_pattern, parse
from semtag.store.locations import place_at

ShownExamples = tuple[tuple[str, str], ...]  # texts with their answers


@dataclass(frozen=True)
class Decoding:
    """How a model is asked for each text that names it.

    With a temperature of 0 it answers greedily, once. `pattern` is a regular expression that completions keep within.
    With `vote` the samples become one answer, of the tags that most of them name. `examples` are shown as turns before
    the text. `allowed_tokens` are the only tokens that may be drawn. With `replay` nobody is asked: the data has the
    candidates.
    """

    name: str
    max_tokens: int
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    pattern: str | None = None
    vote: bool = False
    examples: ShownExamples = ()
    allowed_tokens: tuple[int, ...] | None = None
    replay: bool = False


def candidates(config: Config, first_round: bool) -> Decoding:
    """How the candidates of a round are drawn: as `sampling` says, in the first round after the prompt's examples."""
    sampling = config.sampling
    drawn = sampled(
        config,
        "candidates",
        samples=sampling.samples,
        constrained=sampling.constrained,
        examples=read_examples(config.prompt) if first_round else (),
    )
    return replace(drawn, replay=sampling.engine == "replay")


def greedy(config: Config, name: str, constrained: bool = False, examples: ShownExamples = ()) -> Decoding:
    """The likeliest token each time. This is how a tagger is asked, unless told otherwise."""
    return Decoding(name, config.sampling.max_tokens, pattern=_pattern(config, constrained), examples=examples)


def sampled(
    config: Config,
    name: str,
    samples: int = 1,
    constrained: bool = False,
    vote: bool = False,
    examples: ShownExamples = (),
) -> Decoding:
    """Samples at the temperature of `sampling`."""
    sampling = config.sampling
    return Decoding(
        name,
        sampling.max_tokens,
        samples,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        _pattern(config, constrained),
        vote,
        examples,
    )


def tagging(config: Config, votes: int = 1, constrained: bool = False) -> Decoding:
    """How a tagger is asked: greedily, or for the tags that most of several samples name."""
    if votes > 1:
        return sampled(config, "tag", votes, constrained, vote=True)
    return greedy(config, "tag", constrained)


def _pattern(config: Config, constrained: bool) -> str | None:
    return answer_pattern(config.prompt.max_tags, config.prompt.max_tag_words) if constrained else None


def read_examples(prompt: Prompt) -> ShownExamples:
    """The prompt's examples, from the config or from the file that it names.

    Raises UserError where the file cannot be read, or an answer is not valid.
    """
    given = prompt.examples if isinstance(prompt.examples, list) else _from_file(prompt.examples)
    for example in given:
        parsed = parse(example.answer, prompt.max_tags, prompt.max_tag_words)
        if parsed.format != "valid":
            raise UserError(
                f"The example answer {example.answer!r} is malformed: {parsed.reason}.",
                f"Write [tag1][tag2] with at most {prompt.max_tags} tags in prompt.examples.",
            )
    return tuple((example.text, example.answer) for example in given)


def _from_file(name: str) -> Sequence[Example]:
    file = place_at(name)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return [Example.model_validate(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        said = "; ".join(line.strip() for line in str(error).splitlines()[:3])
        raise UserError(
            f"Cannot read the examples in {file}: {said}.",
            'Name JSON lines of {"text": ..., "answer": ...} in prompt.examples.',
        ) from None
