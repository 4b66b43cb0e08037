"""The first texts of the data with candidates, ranks and pairs, before a run spends anything. Needs no Ray."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from semtag.cluster.progress import NoTally
from semtag.cluster.text_table import text_table
from semtag.configs.errors import UserError
from semtag.configs.schema import Config
from semtag.evaluation.report.page import render_page
from semtag.generation.decoding import Decoding, candidates
from semtag.generation.endpoint import Endpoint
from semtag.generation.preflight import check_base, check_model
from semtag.generation.readers import read_rows
from semtag.generation.records import Candidate, Reject, SampledText, Text, from_table, to_table
from semtag.generation.replay import Replay
from semtag.generation.sampler import Sampler
from semtag.generation.texts import TextCleaner
from semtag.scoring.criteria import Criteria, own_scorers
from semtag.scoring.pairs import Preferences, find_preferences, judged
from semtag.store.rounds import base_of

LONGEST = 240  # characters of a text, and of a rejected row, on a terminal


@dataclass(frozen=True)
class PreviewedText:
    """A text with its candidates, the best first, and the preferences between them; or a rejected text."""

    text: SampledText
    preferences: Preferences


@dataclass(frozen=True)
class Preview:
    """Texts from the beginning of the data, and the rows among them that are rejected."""

    texts: list[PreviewedText]
    rejects: list[Reject]


def preview(config: Config, count: int, say: Callable[[str], None]) -> Preview:
    """Do round 1's sampling, scoring and pairing on the first `count` texts, in this process.

    The caps over all texts, such as pairs.format_share, are not applied. Raises UserError as the stages do.
    """
    first, model = config.of_round(1), base_of(config)
    own = own_scorers(first.scoring)
    decoding = candidates(first, first_round=True)
    _check_gpu(first, decoding)
    texts, rejects = _first_texts(first, count, say)
    check_model(model, first, served=decoding.engine == "vllm")
    check_base(model, config)
    say(f"sampling {decoding.samples} candidates for each of {len(texts)} texts")
    rows = [SampledText(**vars(text), decoding=decoding.name) for text in texts]
    sampled = asyncio.run(_sampled(rows, first, model, decoding))
    say("scoring")
    scored = Criteria(first.scoring, own).score(sampled)
    return Preview([PreviewedText(text, _preferences(text, first)) for text in scored], rejects)


def _check_gpu(config: Config, decoding: Decoding) -> None:
    """Check that this machine has a GPU if the config asks for one. Raises UserError if not."""
    import torch

    asked = config.scoring.gpus or (config.sampling.gpus if decoding.engine == "vllm" else 0)
    if asked and not torch.cuda.is_available():
        raise UserError(
            "A preview samples and scores on this machine, which has no GPU, and the config asks for one.",
            "Do it on a machine with a GPU, or with sampling.gpus_per_actor=0 scoring.gpus_per_actor=0.",
        )


def _first_texts(config: Config, count: int, say: Callable[[str], None]) -> tuple[list[Text], list[Reject]]:
    replayed = config.sampling.candidates if config.sampling.engine == "replay" else None
    cleaner, texts, rejects = TextCleaner(config.data, replayed), list[Text](), list[Reject]()
    for row in read_rows(config.data, say):
        cleaned = cleaner.clean(row)
        if isinstance(cleaned, Reject):
            rejects.append(cleaned)
        else:
            texts.append(cleaned)
        if len(texts) == count:
            break
    cleaner.check()
    return texts, rejects


async def _sampled(rows: list[SampledText], config: Config, model: str, decoding: Decoding) -> list[SampledText]:
    if decoding.engine == "vllm":
        sampler = Sampler(config, model, [decoding], NoTally())
        try:
            return await sampler.sample(rows)
        finally:
            sampler.engine.shutdown()
    if decoding.engine == "replay":
        return from_table(await Replay(config, model, NoTally())(to_table(rows)))
    return await Endpoint(config, model, [decoding], NoTally()).sample(rows)


def _preferences(text: SampledText, config: Config) -> Preferences:
    seen = [judged(candidate, config.pairs) for candidate in text.candidates]
    return find_preferences(text.text_id, seen, config.pairs, config.run.seed)


def lines_of(found: Preview) -> list[str]:
    """Format a preview for a terminal: each text with its candidates and its pairs, then the rejected rows."""
    lines = list[str]()
    for number, one in enumerate(found.texts, start=1):
        lines += [f"{number}  {_one_line(one.text.text)}", *(f"   {line}" for line in _below(one)), ""]
    if found.rejects:
        lines.append("Rejected rows")
        lines += [f"   {reject.reason}: {_one_line(reject.detail or '')}" for reject in found.rejects]
    return lines


def page_of(found: Preview, title: str) -> str:
    """Render a preview as a page."""
    return render_page("preview.html.j2", "report", title=title, found=found)


def _below(one: PreviewedText) -> list[str]:
    if one.text.reason:
        return [f"rejected as {one.text.reason}: {_one_line(one.text.detail or '')}"]
    rows = [("score", "form", "completion"), *map(_row, one.text.candidates)]
    pairs = [
        f"pair: {_one_line(chosen.completion)}  over  {_one_line(rejected.completion)}"
        for chosen, rejected in [*one.preferences.similarity, *one.preferences.format]
    ]
    return [*text_table(rows, right=range(1)), *(pairs or ["no pair"])]


def _row(candidate: Candidate) -> tuple[str, str, str]:
    score = "-" if candidate.score is None else f"{candidate.score:.3f}"
    score += f" ({', '.join(f'{one:.3f}' for one in candidate.scores)})" if candidate.scores else ""
    return score, str(candidate.reason or "valid"), _one_line(candidate.completion)


def _one_line(text: str) -> str:
    """Shorten a text to one line, without characters that would steer a terminal."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
