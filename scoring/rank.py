"""The rank stage: the texts of a round -> ranked lists and rejects."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semtag.cluster.progress import Progress
from semtag.cluster.ray_session import ray_session
from semtag.cluster.stage_process import stage_main
from semtag.configs.errors import UserError
from semtag.configs.fields import is_readable_by_others
from semtag.configs.schema import Config, Pairs, Prompt
from semtag.generation.decoding import Decoding, candidates, read_examples
from semtag.generation.parse import parse, same_answer_key
from semtag.generation.preflight import check_base, check_model, template_warnings
from semtag.generation.prompts import spellings_of
from semtag.generation.reasons import RejectReason
from semtag.generation.records import REJECT, TEXT, Reject, candidates_of
from semtag.scoring.calibration import length_of_best
from semtag.scoring.criteria import check_scorers
from semtag.scoring.finished import TextIds, Work, finish
from semtag.scoring.given import has_left, sampling_identity, score_given
from semtag.scoring.pairs import judged
from semtag.scoring.pipeline import sample_and_score
from semtag.scoring.records import RANKED
from semtag.store.layout import RoundLayout, Step
from semtag.store.locations import Place
from semtag.store.manifest import StepCounts
from semtag.store.parquet import PartWriter, RowWriter, count_rows, count_values, read_tables
from semtag.store.rounds import start_of
from semtag.store.run_dir import RunDir, check_rejected

LOOKED_AT = 2000  # texts, for the warnings of what training would learn from them
LEAST_TEXTS, LONGER = 100, 0.7  # texts, and the share of longest best answers from which Semtag warns
LEAST_ANSWERS, COPIED = 100, 0.02  # valid answers, and the share with a copied tag from which Semtag warns


@dataclass
class RankCounts:
    """Counts of a round's texts and of their candidates, by outcome."""

    texts: int = 0
    ranked: int = 0
    scored: int = 0  # candidates with a score
    score_sum: float = 0.0
    in_parts: int = 0  # texts longer than the embedding model reads
    lengths: Counter[int] = field(default_factory=Counter)  # of texts, by `length_of_best`
    looked_at: int = 0  # valid answers of these texts
    copied: Counter[str] = field(default_factory=Counter)  # these answers, by a tag of prompt.examples that they copy
    rejects: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    invalid: Counter[str] = field(default_factory=Counter)  # invalid candidates, by defect


def rank(run: RunDir, config: Config, progress: Progress, number: int) -> StepCounts:
    """Sample, score and rank a round's texts into ranked/ and rejects/; return the counts."""
    model, step, layout = start_of(run, config, number), Step("rank", number), run.layout.round(number)
    decoding = candidates(config, first_round=number == 1)
    check_scorers(config.scoring)
    tokenizer = check_model(model, config, served=decoding.engine == "vllm")
    check_base(model, run.config(), number)
    _show_plan(config, model, decoding, tokenizer, progress)
    texts = run.layout.train_texts(number, config.rounds.texts == "reuse")
    sample = _sampling(layout, texts, config, model, decoding, _given(layout, config, number, progress), progress)

    def part(files: list[Place]) -> RankCounts:
        expected = TextIds(texts)
        with run.replace_folder(layout.ranked) as ranked, run.replace_folder(layout.rejects) as rejects:
            counts = _split(files, expected, ranked, rejects, config)
            _check_counts(counts, expected, progress)
        return counts

    # Sample and score until each text has a row. Then split the rows into ranked lists and rejects.
    counts = finish(texts, layout.sampled, layout.sampled_ids, progress, sample, part)
    check_rejected(counts.rejects, counts.texts, config, layout.rejects)
    # Record texts and candidates in the ledger.
    formats, reasons = counts.formats, counts.invalid
    run.record(step, "texts", counts.texts, counts.ranked, dict(counts.rejects))
    run.record(step, "candidates", formats.total(), formats["valid"] + formats["repaired"], dict(reasons))
    return {
        "texts": counts.texts,
        "ranked": counts.ranked,
        "rejects": dict(counts.rejects),
        "formats": dict(formats),
        "mean_score": round(counts.score_sum / max(1, counts.scored), 4),
        **({"scored_in_parts": counts.in_parts} if counts.in_parts else {}),
        "broken_spellings": spellings_of(tokenizer),  # prompts.broken breaks them up, so that no text opens a chat turn
    }


def _sampling(
    layout: RoundLayout,
    texts: Place,
    config: Config,
    model: str,
    decoding: Decoding,
    given: Place | None,
    progress: Progress,
) -> Work:
    """Make the pipeline that `finish` calls: it scores `given` candidates first, and samples the other texts."""
    total, ids = count_rows(texts), layout.sampled_ids

    def sample(done: np.ndarray, last: bool) -> None:
        if len(done):
            progress.say(f"{len(done):,} of {total:,} texts were done before and are kept")
        with ray_session(config):
            if given and not last and has_left(given, done):
                score_given(given, layout.sampled, config, progress, ids, done)
            else:
                sample_and_score(texts, layout.sampled, config, model, [decoding], progress, ids, done, last=last)

    return sample


def _given(layout: RoundLayout, config: Config, number: int, progress: Progress) -> Place | None:
    """Return the folder of candidates that a fork took over, or None. Changed settings of sampling need others."""
    if not layout.given_identity.exists():
        return None
    if layout.given_identity.read_text(encoding="utf-8") != sampling_identity(config, number):
        progress.say("the candidates that were taken over are not used, because settings of sampling have changed")
        return None
    progress.say("the candidates that were taken over are scored; only texts without candidates are sampled")
    return layout.given


def _show_plan(config: Config, model: str, decoding: Decoding, tokenizer: Any, progress: Progress) -> None:
    for warning in template_warnings(tokenizer):
        progress.say(f"warning: {warning}")
    if decoding.engine == "replay":
        progress.say(f"reading candidates from column '{config.sampling.candidates}'")
        return
    how = f", with {len(decoding.examples)} examples in the prompt" if decoding.examples else ", with the plain prompt"
    grammar = ", constrained by the grammar" if decoding.pattern else ""
    endpoint = config.sampling.endpoint if decoding.engine == "openai" else None
    source = f"{config.sampling.served_model} at {endpoint}" if endpoint else model
    progress.say(f"sampling {decoding.samples} candidates per text from {source}{how}{grammar}")
    if endpoint and is_readable_by_others(endpoint):
        progress.say(f"warning: {endpoint} is not encrypted: others on the network can read the texts and the key")


def _split(files: list[Place], expected: TextIds, ranked: Path, rejects: Path, config: Config) -> RankCounts:
    """Write the pipeline's rows as ranked lists and rejects, one row per text; return the counts."""
    counts, known = RankCounts(), _tags_shown(config.prompt)
    with PartWriter(ranked, RANKED) as good, RowWriter(rejects / "rows.parquet", REJECT) as bad:
        for table in read_tables(files):
            table = table.filter(expected.take(table["text_id"].to_numpy()))
            counts.texts += len(table)
            rejected = pc.is_valid(table["reason"])
            for row in table.filter(rejected).to_pylist():
                counts.rejects[row["reason"]] += 1
                bad.write(vars(_reject(row)))
            kept = table.filter(pc.invert(rejected))
            good.write(kept)
            counts.in_parts += pc.sum(kept["in_parts"], min_count=0).as_py()
            _look_at(kept, counts, known, config.pairs)
            _count_candidates(kept["candidates"].combine_chunks().flatten(), counts)
    counts.ranked = good.rows
    return counts


def _count_candidates(candidates: pa.StructArray, counts: RankCounts) -> None:
    formats, scores = candidates.field("format"), pc.drop_null(candidates.field("score"))
    counts.formats += count_values(formats)
    counts.invalid += count_values(candidates.field("reason").filter(pc.equal(formats, "invalid")))
    counts.scored += len(scores)
    counts.score_sum += pc.sum(scores, min_count=0).as_py()


def _look_at(kept: pa.Table, counts: RankCounts, known: dict[str, str], pairs: Pairs) -> None:
    """Count what training would learn from the first LOOKED_AT texts: long answers, and `known` tags of examples."""
    for row in kept.select(["text", "candidates"])[: LOOKED_AT - counts.lengths.total()].to_pylist():
        candidates, text = candidates_of(row), row["text"].casefold()
        counts.lengths[length_of_best([judged(one, pairs) for one in candidates])] += 1
        valid = [same_answer_key(one.tags) for one in candidates if one.format == "valid"]
        counts.looked_at += len(valid)
        # A tag that the text spells is no copy.
        unspelt = {tag for tag in known if tag not in text}
        counts.copied.update(known[tag] for tags in valid for tag in unspelt.intersection(tags))


def _tags_shown(prompt: Prompt) -> dict[str, str]:
    """Return the tags of prompt.examples, by their keys."""
    shown = [parse(answer, prompt.max_tags, prompt.max_tag_words).tags for _, answer in read_examples(prompt)]
    return {same_answer_key([tag])[0]: tag for tags in shown for tag in tags}


def _reject(row: dict[str, Any]) -> Reject:
    content = json.dumps({name: row[name] for name in TEXT.names}, ensure_ascii=True)
    return Reject("rank", RejectReason(row["reason"]), row["detail"], content)


def _check_counts(counts: RankCounts, expected: TextIds, progress: Progress) -> None:
    if left := expected.left():
        raise RuntimeError(f"{left} of {len(expected.ids)} texts have no row")
    if expected.repeated or expected.unknown:
        progress.say(
            f"skipped {expected.repeated:,} rows of texts that already have a row, and {expected.unknown:,} rows of "
            "unknown texts"
        )
    if not counts.ranked:
        raise UserError(
            f"None of the {counts.texts} texts could be sampled: {dict(counts.rejects)}.",
            "Read the round's rejects/. For too_long, set data.max_words to split long texts.",
        )
    if counts.in_parts:
        progress.say(f"{counts.in_parts:,} texts are longer than the embedding model reads, and are scored in parts")
    for warning in _warnings(counts):
        progress.say(f"warning: {warning}")


def _warnings(counts: RankCounts) -> Iterator[str]:
    """Yield what may spoil a tagger that learns from these candidates."""
    longer, decided = counts.lengths[1], counts.lengths[1] + counts.lengths[-1]
    if decided >= LEAST_TEXTS and longer > LONGER * decided:
        yield (
            f"in {longer / decided:.0%} of {decided:,} texts the best answer has more words than the text's "
            "answers have in the mean. A tagger that learns this writes ever more words. `semtag audit-scorer` shows "
            "what else the score falls for; pairs.word_price gives words a price."
        )
    for tag, copies in counts.copied.most_common(1):
        if counts.looked_at >= LEAST_ANSWERS and copies > COPIED * counts.looked_at:
            yield (
                f"{copies / counts.looked_at:.1%} of {counts.looked_at:,} valid answers have the tag '{tag}' of "
                "prompt.examples, which their texts do not spell. Read some in ranked/, and change the example if the "
                "tag does not fit them."
            )


if __name__ == "__main__":
    stage_main("rank", rank)
