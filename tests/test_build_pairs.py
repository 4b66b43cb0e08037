"""The pairs stage: which references it keeps, and which of the matched pairs."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from semtag.configs.load import load_config
from semtag.scoring.build_pairs import _nothing, kept_lists, kept_pairs, pair_batch
from semtag.scoring.records import LIST, PAIR, RANKED, TEXT_PAIRS
from tests.conftest import ROOT
from tests.test_pairs import FIVE

DEMO = ROOT / "configs" / "demo.yaml"


def pair(text_id: int, kind: str) -> dict[str, Any]:
    return dict.fromkeys(PAIR.names) | {"text_id": text_id, "kind": kind}


def test_kept_pairs_are_those_up_to_the_threshold_of_their_group() -> None:
    rows = [
        {
            "pairs": [pair(1, "similarity"), pair(1, "format"), pair(2, "format")],
            "groups": [1, 0, 0],
            "hashes": [9, 5, -7],
        },
        {"pairs": [pair(3, "format")], "groups": [0], "hashes": [6]},
    ]
    batch = pa.Table.from_pylist(rows, TEXT_PAIRS)

    def kept(*thresholds: int | None) -> list[tuple[int, str]]:
        table = kept_pairs(batch, pa.array(thresholds, pa.int64()))
        assert table.schema.equals(PAIR)
        return [(row["text_id"], row["kind"]) for row in table.to_pylist()]

    assert kept(5, 9) == [(1, "similarity"), (1, "format"), (2, "format")]
    assert kept(-7, 9) == [(1, "similarity"), (2, "format")]
    assert kept(None, 9) == [(1, "similarity")]
    assert kept(6, 8) == [(1, "format"), (2, "format"), (3, "format")]


@pytest.mark.parametrize("threshold", [None, 0])
def test_texts_that_yield_nothing_give_empty_tables(threshold: int | None) -> None:
    nothing: dict[str, Any] = {"pairs": [], "groups": [], "hashes": [], "dropped": []}
    for rows in ([], [nothing | {"list": None}]):
        batch = pa.Table.from_pylist(rows, TEXT_PAIRS)
        assert kept_pairs(batch, pa.array([threshold] * 2, pa.int64())).equals(PAIR.empty_table())
        assert kept_lists(batch).equals(LIST.empty_table())


class Tally:
    def add(self, counts: Any, **how: Any) -> None:
        assert counts.texts == 1


def matched(*overrides: str, sampled_prompt_ids: list[int]) -> dict[str, Any]:
    """What a ranked text yields that was sampled under these tokens; the tokens of its plain prompt are [1, 2]."""
    config = load_config(DEMO, ["pairs.strategy=all_pairs", *overrides])
    row = {"text_id": 1, "prompt": [], "prompt_ids": [1, 2], "sampled_prompt_ids": sampled_prompt_ids}
    batch = pa.Table.from_pylist([row | {"candidates": [*map(vars, FIVE)]}], RANKED)
    [found] = pair_batch(batch, config, Tally()).to_pylist()  # type: ignore[arg-type]
    return found


def test_log_probabilities_serve_where_the_plain_prompt_was_sampled_under() -> None:
    found = matched(sampled_prompt_ids=[1, 2])
    known = {(pair["ref_chosen_logprob"], pair["ref_rejected_logprob"]) for pair in found["pairs"]}
    assert known == {(-float(chosen), -float(rejected)) for chosen, rejected in samples_in(found)}
    assert found["list"]["ref_logprobs"] == [-2.0, -1.0, 0.0, -3.0]


@pytest.mark.parametrize(
    ("overrides", "sampled_prompt_ids"), [([], [7, 8, 1, 2]), (["sampling.constrained=true"], [1, 2])]
)
def test_log_probabilities_under_examples_or_a_grammar_are_no_references(
    overrides: list[str], sampled_prompt_ids: list[int]
) -> None:
    found, plain = matched(*overrides, sampled_prompt_ids=sampled_prompt_ids), matched(sampled_prompt_ids=[1, 2])
    assert samples_in(found) == samples_in(plain) and len(found["pairs"]) > 1
    assert {pair[side] for pair in found["pairs"] for side in ("ref_chosen_logprob", "ref_rejected_logprob")} == {None}
    assert found["list"]["ref_logprobs"] == [None] * 4
    # The tokens are the model's own all the same, and the prompt is the plain one.
    assert [pair["chosen_ids"] for pair in found["pairs"]] == [pair["chosen_ids"] for pair in plain["pairs"]]
    assert {tuple(pair["prompt_ids"]) for pair in found["pairs"]} == {(1, 2)}


def samples_in(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(pair["chosen_sample"], pair["rejected_sample"]) for pair in found["pairs"]]


@pytest.mark.parametrize(("kind", "advice"), [("pairs", "lower pairs.min_margin"), ("lists", "lower pairs.list_least")])
def test_a_run_without_rows_is_told_what_rows_need(kind: str, advice: str) -> None:
    error = str(_nothing(kind, Counter(tie=2), Counter(too_few_answers=3), {}))
    assert f"could make no {kind} ({'3 too few answers' if kind == 'lists' else '2 tie'})" in error
    assert advice in error
