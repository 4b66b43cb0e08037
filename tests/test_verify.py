"""`semtag verify` names each kind of problem that it knows, in a run that was tampered with so."""

import re

import pytest

from semtag.store.run_dir import RunDir
from semtag.verify import verify
from tests.tampering import (
    Change,
    best,
    both,
    broken,
    configured,
    counted,
    cut_short,
    damaged,
    first,
    fuller,
    held_out_too,
    json_file,
    of_another_schema,
    of_equal_answers,
    put,
    rejected,
    rewrite,
    rows_of,
    scored_otherwise,
    similar,
    swapped,
)

FILES = "no half-written file, no unknown schema"
IDENTITY = "the identity of each step is the hash of the step's config"
LEDGER = "the ledger balances and agrees with the files"
TEXTS = "each text once, named by its content, on one side of the split"
ONCE = "round 2: every train text exactly once, ranked or rejected"
CANDIDATES = "round 2: candidates are complete, parsed as stored and in order of score"
PAIRS = "round 2: every pair is a preference, and pairs and lists are those of the ranked texts"
CAP = "round 2: format pairs keep within pairs.format_share"
BINS = "round 2: bins of score gaps are filled evenly, if pairs.strategy=margin_bins"
WEIGHTS = "round 2: adapter and merged weights are those that training wrote"
VALIDATION = "round 2: every validation text has one answer, and the answers give the manifest's figures"


MESSAGE = [{"role": "user", "content": "What is this?"}]
AS_RANKED = "not as the ranked text has it"
# Kind of problem -> the check that names it, what is done to the run, and the words of the problem.
TAMPERED: dict[str, tuple[str, Change, str]] = {
    "a half-written folder": (
        FILES,
        lambda run: run.layout.round(1).lists.with_name(".lists.partial").mkdir(),
        r"round-1/\.lists\.partial was left half-written",
    ),
    "what a killed attempt left": (
        FILES,
        lambda run: run.layout.round(2).sampled.mkdir(parents=True),
        "rank-2 is done, and .* still exists",
    ),
    "a file that is cut short": (FILES, cut_short, "round-2/pairs/.* cannot be read"),
    "a damaged page": (ONCE, damaged, "the check could not continue: "),
    "a column that is not there": (FILES, of_another_schema, "round-2/lists/.* has columns .* with their types"),
    "a step of another config": (
        IDENTITY,
        json_file("manifest", lambda manifest: manifest["steps"]["rank-2"]["config"].update({"run.seed": 99})),
        "identity .* of rank-2 is not the hash of its config",
    ),
    "a ledger that does not balance": (LEDGER, counted("texts", "rows", came_in=1), r"ledger\.json: texts rows: \{"),
    "a ledger of other rows": (
        LEDGER,
        counted("rank-2", "texts", came_in=1, out=1),
        r"names \d+ texts of rank-2 for .*round-2/ranked, which holds \d+",
    ),
    "a ledger of other rejects": (
        LEDGER,
        counted("rank-2", "texts", came_in=1, too_long=1),
        r"names \d+ texts of rank-2 for .*round-2/rejects, which holds \d+",
    ),
    "a text on both sides of the split": (TEXTS, held_out_too, r"text_id -?\d+ occurs twice"),
    "a text of another name": (
        TEXTS,
        lambda run: rewrite(run.layout.held_out, lambda rows: [rows[0] | {"text": "Another text."}, *rows[1:]]),
        "is not the hash of its text",
    ),
    "a text ranked twice": (ONCE, rows_of("ranked", lambda rows: [*rows, rows[0]]), "is ranked twice"),
    "a ranked text that nobody gave": (
        ONCE,
        lambda run: rewrite(run.layout.train_texts(2, reuse=False), lambda rows: rows[1:]),
        "is ranked, but is no train text",
    ),
    "a lost text": (ONCE, rows_of("ranked", lambda rows: rows[1:]), "is neither ranked nor rejected"),
    "a text both ranked and rejected": (ONCE, rejected(1), "is rejected and ranked, or is no train text"),
    "a text rejected twice": (ONCE, rejected(2), "a text is rejected twice"),
    "another text under its name": (
        CANDIDATES,
        first("ranked", put(text="Another text.")),
        "is not the hash of its ranked text",
    ),
    "another prompt": (
        CANDIDATES,
        first("ranked", put(prompt=MESSAGE)),
        "its prompt is not the prompt that the config gives",
    ),
    "an example that nobody configured": (
        CANDIDATES,
        first("ranked", lambda row: {"sampled_prompt_ids": [1, *row["prompt_ids"]]}),
        "its sampled prompt has other tokens than its prompt",
    ),
    "a lost candidate": (
        CANDIDATES,
        first("ranked", lambda row: {"candidates": row["candidates"][:-1]}),
        r"samples \[.*\], expected \d",
    ),
    "candidates in another order": (
        CANDIDATES,
        rows_of("ranked", lambda rows: [row | {"candidates": row["candidates"][::-1]} for row in rows]),
        "not in order of score",
    ),
    "a rank too high": (CANDIDATES, best(put(rank=1)), "not in order of score"),
    "another completion": (
        CANDIDATES,
        best(put(completion="no tags at all")),
        "stored as valid .* parses as invalid",
    ),
    "other tags": (CANDIDATES, best(put(tags=["another"])), "stored as .* parses as "),
    "a score that is no cosine": (CANDIDATES, best(put(score=1.5)), "a score of 1.5, which is no cosine"),
    "a lost score": (CANDIDATES, best(put(score=None)), "tags with a score of None"),
    "a lost token": (
        CANDIDATES,
        best(lambda one: {"token_ids": one["token_ids"][:-1]}),
        r"num_tokens is \d+, token_ids has \d+ tokens",
    ),
    "a log-probability over 0": (CANDIDATES, best(put(logprob=0.5)), "0.5 is no log-probability"),
    "a pair of no ranked text": (PAIRS, first("pairs", put(text_id=1)), r"pair 1 \(.*: no such candidates"),
    "a pair of no candidate": (PAIRS, first("pairs", put(chosen_sample=99)), r"\(99 over \d\): no such candidates"),
    "a pair the wrong way round": (
        PAIRS,
        similar(swapped("chosen_sample", "rejected_sample")),
        r"score gap -\S+, stored margin",
    ),
    "a pair of another kind": (PAIRS, similar(put(kind="format")), "a format pair of valid over valid"),
    "a pair of an unknown kind": (PAIRS, similar(put(kind="guess")), "a guess pair of valid over valid"),
    "another margin": (PAIRS, similar(lambda row: {"margin": row["margin"] + 0.1}), r"score gap \S+, stored margin"),
    "a lost margin": (PAIRS, similar(put(margin=None)), r"score gap \S+, stored margin None"),
    "a pair of equal answers": (PAIRS, of_equal_answers, "equal answers"),
    "a pair twice": (PAIRS, rows_of("pairs", lambda rows: [rows[0], *rows]), r"pair .*\): occurs twice"),
    "swapped messages": (PAIRS, first("pairs", swapped("chosen", "rejected")), f"chosen, rejected: {AS_RANKED}"),
    "a pair of another prompt": (PAIRS, first("pairs", put(prompt=MESSAGE)), rf"pair .*\): prompt: {AS_RANKED}"),
    "a pair of other prompt tokens": (
        PAIRS,
        first("pairs", lambda row: {"prompt_ids": row["prompt_ids"][1:]}),
        rf"pair .*\): prompt_ids: {AS_RANKED}",
    ),
    "other chosen tokens": (
        PAIRS,
        first("pairs", lambda row: {"chosen_ids": [*row["chosen_ids"], 1]}),
        rf"\): chosen_ids: {AS_RANKED}",
    ),
    "another reference": (
        PAIRS,
        first("pairs", put(ref_rejected_logprob=-0.125)),
        rf"\): ref_rejected_logprob: {AS_RANKED}",
    ),
    "pairs of another strategy": (
        PAIRS,
        configured("pairs.strategy=first_two"),
        r"\): the ranked text gives no such record",
    ),
    "a lost pair": (PAIRS, rows_of("pairs", lambda rows: rows[1:]), r"group \d .* has \d+ pairs; of the \d+ .* stay"),
    "a ledger of other drops": (PAIRS, counted("pairs-2", "pairs", came_in=9, tie=9), "dropped pairs .*'tie': "),
    "a list of no ranked text": (
        PAIRS,
        first("lists", put(text_id=1)),
        "list of text_id 1: the ranked text gives no such record",
    ),
    "a lost list": (PAIRS, rows_of("lists", lambda rows: rows[1:]), "list of text_id .*: is missing"),
    "a list twice": (PAIRS, rows_of("lists", lambda rows: [rows[0], *rows]), "list of text_id .*: occurs 2 times"),
    "a list of another prompt": (PAIRS, first("lists", put(prompt=MESSAGE)), f"list of .*: prompt: {AS_RANKED}"),
    "a list in another order": (
        PAIRS,
        first("lists", lambda row: {"completions": row["completions"][::-1]}),
        f"list of .*: completions: {AS_RANKED}",
    ),
    "another score in a list": (
        PAIRS,
        first("lists", lambda row: {"scores": [score / 2 for score in row["scores"]]}),
        f"list of .*: scores: {AS_RANKED}",
    ),
    "other samples in a list": (
        PAIRS,
        first("lists", lambda row: {"samples": row["samples"][::-1]}),
        f"list of .*: samples: {AS_RANKED}",
    ),
    "another reference in a list": (
        PAIRS,
        first("lists", lambda row: {"ref_logprobs": [-0.125 for _ in row["scores"]]}),
        f"list of .*: ref_logprobs: {AS_RANKED}",
    ),
    "other tokens in a list": (
        PAIRS,
        first("lists", lambda row: {"sampled_ids": [[1] for _ in row["scores"]]}),
        f"list of .*: sampled_ids: {AS_RANKED}",
    ),
    "more format pairs than may be": (
        CAP,
        rows_of("pairs", lambda rows: [row | {"kind": "format"} for row in rows]),
        r"\d+ format pairs beside 0 similarity pairs; 0 are allowed",
    ),
    "fewer format pairs than may be": (
        CAP,
        both(
            rows_of("pairs", lambda rows: [row for row in rows if row["kind"] == "similarity"]),
            counted("pairs-2", "pairs", came_in=5, over_format_share=5),
        ),
        r"\d+ format pairs were dropped, though \d+ are allowed and 0 are kept",
    ),
    "a bin too full": (
        BINS,
        both(configured("pairs.strategy=margin_bins"), rows_of("pairs", fuller)),
        r"1000 similarity pairs of \d+ texts, up to 1000 in a bin; \d+ are allowed",
    ),
    "a bin with room": (
        BINS,
        both(
            configured("pairs.strategy=margin_bins"),
            rows_of("pairs", lambda rows: fuller(rows)[:1]),
            counted("pairs-2", "pairs", came_in=5, over_margin_bin=5),
        ),
        "5 pairs were dropped, though each of the 1 fullest bins had room",
    ),
    "another adapter": (WEIGHTS, broken("adapter"), "the weights in .*round-2/model have the hash"),
    "other merged weights": (WEIGHTS, broken("merged"), "the weights in .*round-2/merged have the hash"),
    "a lost validation text": (
        VALIDATION,
        rows_of("validation", lambda rows: rows[1:]),
        "round-2/validation does not hold each validation text once",
    ),
    "better validation answers": (
        VALIDATION,
        first("validation", scored_otherwise),
        r"manifest\.json: mean_score is \S+, the answers give",
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_each_kind_of_problem_is_named(kind: str, copy: RunDir) -> None:
    check, tamper, words = TAMPERED[kind]
    tamper(copy)
    found = verify(copy)
    assert any(re.search(words, problem) for problem in found[check]), found
    # The words are the problem's own: no name of a check, which is printed where it holds as well, has them.
    assert not any(re.search(words, name) for name in found)
