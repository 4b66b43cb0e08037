"""Candidates from a file: their shapes, and an older run ranked anew."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st

from semtag.cluster.progress import NoTally
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config, Data
from semtag.generation.readers import Row
from semtag.generation.records import SAMPLED, SampledText, from_table, to_table
from semtag.generation.replay import Replay, ReplayedCandidate, known_ids, read_candidates
from semtag.generation.texts import TextCleaner
from semtag.store.run_dir import check_rejected
from tests.conftest import ROOT, TINY, tiny_model


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", TINY)


def test_strings_and_objects_become_candidates(config: Config) -> None:
    rows = read_candidates(["[a][b]", "Sure! [a]"], config)
    assert [(row.sample, row.format, row.answer) for row in rows] == [
        (0, "valid", "[a][b]"),
        (1, "repaired", "[a]"),
    ]
    late, early = {"completion": "[b", "sample": 1, "finish_reason": "length"}, {"completion": "[a]", "logprob": -1.5}
    first, second = read_candidates([late, early], config)
    assert (first.completion, first.logprob, first.num_tokens) == ("[a]", -1.5, None)
    assert (second.completion, second.reason) == ("[b", "truncated")


@pytest.mark.parametrize("given", [None, [], "[a]", [3], [{"text": "[a]"}], [{"completion": "[a]", "logprob": "x"}]])
def test_what_is_no_list_of_completions_is_refused(given: Any, config: Config) -> None:
    with pytest.raises(ValueError, match="column 'completions'"):
        read_candidates(given, config)


GOOD = "[rivers][hills]"
BAD = [
    None,
    7,
    {"text": "[a]"},
    {"completion": None},
    "[fun \ud83d]",
    {"completion": "[a]", "finish_reason": "\ud83d"},
    {"completion": "[a]", "token_ids": [1, None]},
    {"completion": "[a]", "token_ids": [2**31]},
    {"completion": "[a]", "token_ids": [-1]},
    {"completion": "[a]", "num_tokens": 2**31},
    {"completion": "[a]", "logprob": float("nan")},
    "[a]" * 2**20,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:40])
def test_a_bad_candidate_costs_no_other(bad: Any, config: Config) -> None:
    rows = read_candidates([GOOD, bad, {"completion": GOOD, "sample": 2, "token_ids": [1, 2]}], config)
    assert [row.answer for row in rows] == [GOOD, None, GOOD]
    assert [row.sample for row in rows] == [0, 1, 2]
    assert (rows[1].format, rows[1].reason, rows[1].completion) == ("invalid", "empty", "")
    table = pa.Table.from_pylist([{"candidates": [*map(vars, rows)]}], pa.schema([SAMPLED.field("candidates")]))
    assert table["candidates"][0][2]["token_ids"].as_py() == [1, 2]
    with pytest.raises(ValueError, match="column 'completions'"):
        read_candidates([bad, bad], config)


given = st.none() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"])
objects = st.fixed_dictionaries(
    {"completion": given},
    optional={name: given | st.lists(given) for name in ReplayedCandidate.model_fields if name != "completion"},
)


@settings(max_examples=300)
@given_any(st.lists(given | objects | st.lists(given), max_size=4))
def test_any_list_of_candidates_goes_into_arrow_or_is_refused(candidates: Any) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", TINY)
    try:
        rows = read_candidates(candidates, config)
    except ValueError:
        return
    assert len(rows) == len(candidates)
    pa.Table.from_pylist([{"candidates": [*map(vars, rows)]}], pa.schema([SAMPLED.field("candidates")]))


def test_tokens_that_say_something_else_are_not_kept(tokenizer: Any, config: Config) -> None:
    own = tokenizer("[bridge]</s>", add_special_tokens=False)["input_ids"]
    known = {"token_ids": own, "logprob": -3.0, "completion": "[bridge]"}
    others = [known | {"token_ids": ids} for ids in ([5, 6, 7], [*own, 2**31 - 1], [])]
    kept = known_ids(tokenizer, read_candidates([known, {"completion": "[a]", "logprob": -1.0}, *others], config))
    found = [(row.token_ids, row.logprob) for row in kept]
    assert found == [(own, -3.0), (None, -1.0), *[(None, None)] * 3]


def test_a_row_per_candidate_is_said() -> None:
    def row(text: str, *completions: str, sample: int = 0) -> Row:
        return Row("a:1", {"text": text, "completions": [*completions], "sample": sample})

    texts = TextCleaner(Data(path="a"), candidates="completions")
    rows = [row("t", "[a]"), row("t", "[b]", sample=1), row("t", "[a]", sample=2), row("u", "[a]")]
    assert [getattr(texts.clean(one), "reason", None) for one in rows] == [None, "more_candidates", "duplicate", None]
    assert texts.dropped == {"more_candidates": 1, "duplicate": 1}
    with pytest.raises(UserError, match="more_candidates"):
        check_rejected({"more_candidates": 3}, 4, load_config(ROOT / "configs" / "demo.yaml"), Path("rejects"))


def test_a_template_that_refuses_a_text_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(
        "{% if 'forbidden' in messages[-1]['content'] %}{{ raise_exception('not that word') }}{% endif %}"
        "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
    )
    template = f"model.chat_template={tmp_path / 'own.jinja'}"
    config = load_config(ROOT / "configs" / "demo.yaml", [*TINY, template])
    replay = Replay(config, tiny_model(), NoTally())
    meta = json.dumps({"completions": [GOOD]})
    texts = [SampledText(i, text, None, meta, "replay") for i, text in enumerate(["fine", "forbidden"])]
    first, second = from_table(asyncio.run(replay(to_table(texts))))
    assert (first.reason, first.candidates[0].answer) == (None, GOOD)
    assert (second.reason, second.candidates) == ("refused_by_template", [])
