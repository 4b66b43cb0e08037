"""The `Decoding` record: how a model is asked. A caller builds it from the config and hands it to the sampler."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from semtag.configs.errors import UserError
from semtag.configs.schema import Config, Engine, Example, Prompt
from semtag.generation.parse import answer_pattern, parse
from semtag.store.locations import place_at

ShownExamples = tuple[tuple[str, str], ...]  # (text, answer) tuples


@dataclass(frozen=True)
class Decoding:
    """The way in which a model is asked about each text that names this decoding.

    At temperature 0 the model answers greedily, once. `pattern` is a regular expression that each completion must
    match. `vote` turns the samples into one answer, of the tags with the most votes. `examples` are shown as turns
    before the text. Only `allowed_tokens` may be sampled. `engine` names who is asked: a model in vLLM, a server with
    OpenAI's API, or nobody, because the data holds the candidates (replay).
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
    engine: Engine = "vllm"


def candidates(config: Config, first_round: bool) -> Decoding:
    """Build the decoding of a round's candidates from `sampling`. Only the first round shows the prompt's examples."""
    sampling = config.sampling
    drawn = sampled(
        config,
        "candidates",
        samples=sampling.samples,
        constrained=sampling.constrained,
        examples=read_examples(config.prompt) if first_round else (),
    )
    return replace(drawn, engine=sampling.engine)


def greedy(config: Config, name: str, constrained: bool = False, examples: ShownExamples = ()) -> Decoding:
    """Build a decoding that takes the likeliest token each time, which is the default of a tagger."""
    return Decoding(name, config.sampling.max_tokens, pattern=_pattern(config, constrained), examples=examples)


def sampled(
    config: Config,
    name: str,
    samples: int = 1,
    constrained: bool = False,
    vote: bool = False,
    examples: ShownExamples = (),
) -> Decoding:
    """Build a decoding that samples with the temperature, top_p and top_k of `sampling`."""
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
    """Build the decoding of a tagger: greedy for one vote, else a vote over `votes` samples."""
    asked = sampled(config, "tag", votes, constrained, vote=True) if votes > 1 else greedy(config, "tag", constrained)
    return replace(asked, engine=config.sampling.engine)


def _pattern(config: Config, constrained: bool) -> str | None:
    return answer_pattern(config.prompt.max_tags, config.prompt.max_tag_words) if constrained else None


def read_examples(prompt: Prompt) -> ShownExamples:
    """Return the prompt's examples, from the config or from the file that the config names.

    Raises UserError where the file cannot be read, or where an answer is malformed.
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
            'Set prompt.examples to a file with an object {"text": ..., "answer": ...} on each line.',
        ) from None
