"""`semtag verify RUN`: the checks that prove from a run's files alone that the run kept its invariants."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semtag.configs.schema import Config
from semtag.configs.scoring import Scoring
from semtag.generation.parse import parse
from semtag.generation.prompts import broken, build_messages
from semtag.generation.records import REJECT, SAMPLED, TEXT, Candidate
from semtag.generation.texts import text_id
from semtag.scoring.finished import read_ids
from semtag.scoring.records import LIST, PAIR, RANKED, ranked_text
from semtag.scoring.similarity import DIGITS, rank_candidates
from semtag.store.hashing import IdSet
from semtag.store.layout import RoundLayout, Step
from semtag.store.locations import Place, store_error, weights_hash
from semtag.store.parquet import count_rows, read_rows
from semtag.store.run_dir import RunDir, identity
from semtag.verify_pairs import Problems, balance, cap, pairs_and_lists


def verify(run: RunDir) -> dict[str, list[str]]:
    """Check the steps that are done; return check -> problems, an empty list for a check that passes."""
    config = run.config()
    checks: list[tuple[str, str, Callable[[RunDir, Config, RoundLayout, int], Problems]]] = [
        ("texts", "no half-written file, no unknown schema", _files),
        ("texts", "the identity of each step is the hash of the step's config", _identities),
        ("texts", "the ledger balances and agrees with the files", _ledger),
        ("texts", "each text once, named by its content, on one side of the split", _texts),
        ("rank", "every train text exactly once, ranked or rejected", _exactly_once),
        ("rank", "candidates are complete, parsed as stored and in order of score", _candidates),
        ("pairs", "every pair is a preference, and pairs and lists are those of the ranked texts", pairs_and_lists),
        ("pairs", "format pairs keep within pairs.format_share", cap),
        ("pairs", "bins of score gaps are filled evenly, if pairs.strategy=margin_bins", balance),
        ("train", "adapter and merged weights are those that training wrote", _weights),
        ("validate", "every validation text has one answer, and the answers give the manifest's figures", _validation),
    ]
    # Do the checks of each step's stage, with the config and the files of its round.
    found = {}
    for step in run.done():
        settings, layout = config.of_round(step.round) if step.round else config, run.layout.round(step.round)
        named = f"round {step.round}: " if step.round else ""
        for stage, name, check in checks:
            if stage == step.stage:
                found[named + name] = [*_to_the_end(check(run, settings, layout, step.round), run.path)]
    return found


def _to_the_end(problems: Problems, where: Place) -> Problems:
    """Yield the problems. A file that cannot be read is the last problem. Raises the error of an object store."""
    try:
        yield from problems
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        if store_error(error, where):
            raise
        yield f"the check could not continue: {type(error).__name__}: {error}"


def _files(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    for partial in run.path.rglob(".*.partial"):
        yield f"{partial} was left half-written"
    for step in run.done():
        for folder in run.layout.unfinished(step):
            if folder.exists():
                yield f"{step.name} is done, and {folder} still exists: run the same command again"
    schemas = [(run.layout.texts, TEXT), (run.layout.rejects, REJECT)]
    for number in {step.round for step in run.done()} - {0}:
        layout = run.layout.round(number)
        schemas += [(layout.ranked, RANKED), (layout.pairs, PAIR), (layout.lists, LIST), (layout.rejects, REJECT)]
        schemas += [(layout.validation, SAMPLED)]
    for folder, schema in schemas:
        for file in folder.rglob("*.parquet"):
            yield from _schema_problem(file, schema)


def _schema_problem(file: Place, schema: pa.Schema) -> Problems:
    try:
        with file.open("rb") as source:
            found = pq.read_schema(source)
    except (pa.ArrowException, OSError) as error:
        yield f"{file} cannot be read: {error}"
        return
    if not found.equals(schema):
        yield f"{file} has columns {found.names}, not {schema.names} with their types"


def _identities(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    for name, record in run.manifest().steps.items():
        if record.identity != identity(record.config):
            yield f"manifest.json: identity {record.identity} of {name} is not the hash of its config"


def _ledger(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    for name, units in run.ledger().root.items():
        step = Step.of(name)
        layout = run.layout.round(step.round)
        # The folders whose rows the ledger counts, by stage and unit.
        kept: dict[tuple[str, str], Place] = {
            ("texts", "rows"): run.layout.texts,
            ("rank", "texts"): layout.ranked,
            ("pairs", "pairs"): layout.pairs,
            ("pairs", "lists"): layout.lists,
        }
        dropped: dict[tuple[str, str], Place] = {
            ("texts", "rows"): run.layout.rejects,
            ("rank", "texts"): layout.rejects,
        }
        for unit, entry in units.items():
            if not entry.holds:
                yield f"ledger.json: {name} {unit}: {entry.as_json()} does not balance"
            for folders, number in ((kept, entry.went_out), (dropped, entry.lost)):
                folder = folders.get((step.stage, unit))
                if folder is not None and count_rows(folder) != number:
                    yield f"ledger.json names {number} {unit} of {name} for {folder}, which holds {count_rows(folder)}"


def _texts(run: RunDir, config: Config, _: RoundLayout, __: int) -> Problems:
    seen = IdSet()
    for row in read_rows(run.layout.texts, ["text_id", "text"]):
        if not seen.add(row["text_id"]):
            yield f"text_id {row['text_id']} occurs twice"
        if row["text_id"] != text_id(row["text"]):
            yield f"text_id {row['text_id']} is not the hash of its text"


def _exactly_once(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    texts = run.layout.train_texts(number, config.rounds.texts == "reuse")
    expected, ranked = read_ids(texts), read_ids(layout.ranked)
    found, times = np.unique(ranked, return_counts=True)
    for id_ in found[times > 1]:
        yield f"text_id {id_} is ranked twice"
    for id_ in np.setdiff1d(found, expected):
        yield f"text_id {id_} is ranked, but is no train text"
    rejects = [json.loads(row["row"])["text_id"] for row in read_rows(layout.rejects, ["row"])]
    missing = np.setdiff1d(expected, found)
    for id_ in np.setdiff1d(missing, rejects):
        yield f"text_id {id_} is neither ranked nor rejected"
    for id_ in sorted(set(rejects) - set(missing.tolist())):
        yield f"text_id {id_} is rejected and ranked, or is no train text"
    if len(rejects) != len(set(rejects)):
        yield "a text is rejected twice"


def _candidates(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    sampling = config.sampling
    replay, own, samples = sampling.engine == "replay", sampling.engine == "vllm", sampling.samples
    spellings = run.counts(Step("rank", number))["broken_spellings"]
    examples = number == 1 and config.prompt.examples
    for text in map(ranked_text, read_rows(layout.ranked)):
        # Check id and prompt, then the samples and their order, then each candidate.
        where, candidates = f"text_id {text.text_id}", text.candidates
        if text.text_id != text_id(text.text):
            yield f"{where} is not the hash of its ranked text"
        asked = broken(text.text, spellings)
        if not any(text.prompt == build_messages(asked, config.prompt, role) for role in (True, False)):
            yield f"{where}: its prompt is not the prompt that the config gives for its text"
        if text.sampled_prompt_ids != text.prompt_ids and not examples:
            yield f"{where}: its sampled prompt has other tokens than its prompt, and no examples were shown"
        if sorted(c.sample for c in candidates) != list(range(len(candidates) if replay else samples)):
            yield f"{where}: samples {[c.sample for c in candidates]}, expected {samples}"
        if candidates != rank_candidates(candidates):
            yield f"{where}: not in order of score: {[c.score for c in candidates]}"
        for candidate in candidates:
            problem = _misread(candidate, config) or (_miscounted(candidate) if own else None)
            if problem:
                yield f"{where}, sample {candidate.sample}: {problem}"


def _misread(candidate: Candidate, config: Config) -> str | None:
    """Return the problem with the tags or the score of a candidate, or None."""
    prompt, cut = config.prompt, candidate.finish_reason == "length"
    parsed = parse(candidate.completion, prompt.max_tags, prompt.max_tag_words, cut)
    stored = (tuple(candidate.tags), candidate.format, candidate.reason, candidate.answer)
    if stored != (parsed.tags, parsed.format, parsed.reason, parsed.answer):
        return f"stored as {candidate.format} {candidate.answer}, parses as {parsed.format} {parsed.answer}"
    score = candidate.score
    if (score is not None) != bool(parsed.tags):
        return f"{len(parsed.tags)} tags with a score of {score}"
    return None if score is None else _misscored(score, candidate.scores, config.scoring)


def _misscored(score: float, scores: Sequence[float] | None, scoring: Scoring) -> str | None:
    """Return the problem with a score that is no cosine, or no sum of the scorers' scores; None if it may be right."""
    if scoring.is_cosine and not -1 <= score <= 1:
        return f"a score of {score}, which is no cosine"
    if len(scoring.scorers) == 1:
        return None if scores is None else f"scores {scores} by one scorer"
    weights = [one.weight for one in scoring.scorers]
    if scores is None or len(scores) != len(weights):
        return f"scores {scores} by {len(weights)} scorers"
    total = sum(weight * value for weight, value in zip(weights, scores, strict=True))
    if abs(total - score) > 10 ** -DIGITS[scoring.dtype]:
        return f"a score of {score}, and {total} by the scores {scores}"
    return None


def _miscounted(candidate: Candidate) -> str | None:
    """Return the problem with the tokens of a sampled candidate, or None."""
    tokens, logprob = len(candidate.token_ids or ()), candidate.logprob
    if candidate.num_tokens != tokens:
        return f"num_tokens is {candidate.num_tokens}, token_ids has {tokens} tokens"
    if logprob is None or not logprob <= 0:
        return f"{logprob} is no log-probability"
    return None


def _weights(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    for folder in (layout.adapter, layout.merged):
        known, there = run.counts(Step("train", number))["weights"][folder.name], weights_hash(folder)
        if known != there:
            yield f"the weights in {folder} have the hash {there}, training wrote weights of hash {known}"


def _validation(run: RunDir, config: Config, layout: RoundLayout, number: int) -> Problems:
    expected = np.sort(read_ids(run.layout.validation_texts))
    if not np.array_equal(np.sort(read_ids(layout.validation)), expected):
        yield f"{layout.validation} does not hold each validation text once"
    answers = [row["candidates"][0] for row in read_rows(layout.validation, ["candidates"]) if row["candidates"]]
    scores = [answer["score"] for answer in answers if answer["format"] == "valid"]
    counts = run.counts(Step("validate", number))
    for name, value in (("well_formed", len(scores)), ("mean_score", sum(scores))):
        if len(expected) and abs(counts[name] - value / len(expected)) > 1e-9:
            yield f"manifest.json: {name} is {counts[name]}, the answers give {value / len(expected)}"
