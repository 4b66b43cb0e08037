"""Completions as tokens: those that were sampled where they are known, in full, or counted."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from semtag.training.tokenized import REFERENCES, fit_length, load_rows, tokenized


def test_a_pair_over_the_length_is_counted_not_cut(tokenizer: Any) -> None:
    def pair(words: int) -> dict[str, Any]:
        prompt = [{"role": "user", "content": "word " * words}]
        sides = {side: [{"role": "assistant", "content": f"[{side}]"}] for side in ("chosen", "rejected")}
        return {"text_id": words, "prompt": prompt, "margin": 0.5} | sides | dict.fromkeys(REFERENCES)

    short, long = pair(5), pair(300)
    fitting, dropped = fit_length(tokenized(Dataset.from_list([short, long, short]), tokenizer), 60)
    assert (len(fitting), dict(dropped)) == (2, {"too_long": 1})
    assert dict(fit_length(tokenized(Dataset.from_list([short]), tokenizer), 60)[1]) == {}
    whole = max(len(fitting[0]["prompt_ids"]) + len(ids) for ids in fitting[0]["completion_ids"])
    assert len(fit_length(fitting, whole)[0]) == 2
    assert len(fit_length(fitting, whole - 1)[0]) == 0
    without = fitting.map(
        lambda row, place: {"completion_ids": [row["completion_ids"][0], [2] * place]}, with_indices=True
    )
    assert (len(fit_length(without, 60)[0]), dict(fit_length(without, 60)[1])) == (1, {"no_tokens": 1})


def test_brackets_in_a_run_s_name_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    pq.write_table(pa.table({"text_id": [2, 1], "scores": [[0.5], [0.25]]}), folder / "part.parquet")
    assert load_rows(folder, "lists", tmp_path / "cache")["text_id"][:] == [1, 2]


def chat(tokenizer: Any, content: str, **known: Any) -> dict[str, Any]:
    """What a list of two completions, of which the first may have been sampled, becomes for training."""
    unknown = {"sampled_ids": [None, None], "ref_logprobs": [None, None]}
    completions = [[{"role": "assistant", "content": one}] for one in (content, "[b]")]
    row = {"text_id": 1, "prompt": [{"role": "user", "content": "?"}], "completions": completions, "scores": [1.0, 0.0]}
    return dict(tokenized(Dataset.from_list([row | unknown | known]), tokenizer)[0])


def test_sampled_tokens_are_trained_as_they_are(tokenizer: Any) -> None:
    rendered = chat(tokenizer, "[bridge]")
    assert rendered["completion_ids"][0][-1] == tokenizer.eos_token_id
    one_by_one = [*tokenizer.convert_tokens_to_ids([*"[bridge]"]), tokenizer.eos_token_id]
    assert len(one_by_one) > len(rendered["completion_ids"][0])
    kept = chat(tokenizer, "[bridge]", sampled_ids=[one_by_one, None], ref_logprobs=[-3.0, None])
    assert kept["completion_ids"] == [one_by_one, rendered["completion_ids"][1]]
    assert (kept["reference"][0], math.isnan(kept["reference"][1])) == (-3.0, True)
    cut_short = chat(tokenizer, "[bri", sampled_ids=[one_by_one[:4], None], ref_logprobs=[-2.0, None])
    assert cut_short["completion_ids"][0] == one_by_one[:4]


def spelled(tokenizer: Any, *words: str) -> list[int]:
    return [*tokenizer.convert_tokens_to_ids(list(words)), tokenizer.eos_token_id]


def test_tokens_drawn_under_another_prompt_are_trained_behind_the_plain_one(tokenizer: Any) -> None:
    rendered, drawn = chat(tokenizer, "[ab]"), spelled(tokenizer, "[", "a", "b", "]")
    plain = [7, 8, *rendered["prompt_ids"]]
    both = [drawn, spelled(tokenizer, "[", "b", "]")]
    row = chat(tokenizer, "[ab]", prompt_ids=plain, sampled_ids=both)
    assert (row["prompt_ids"], row["completion_ids"]) == (plain, both)
    assert row["sampled"] == [True, True]
    assert all(map(math.isnan, row["reference"]))
    mixed = chat(tokenizer, "[ab]", prompt_ids=plain, sampled_ids=[drawn, None], ref_logprobs=[-3.0, None])
    assert (mixed["prompt_ids"], mixed["completion_ids"]) == (plain, [drawn, rendered["completion_ids"][1]])
    assert (mixed["sampled"], mixed["reference"][0]) == ([True, False], -3.0)
    assert repr(chat(tokenizer, "[ab]", prompt_ids=None)) == repr(rendered)  # NaN is not equal to itself


THINK = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}"
)


def test_a_template_that_opens_answers_in_another_way_changes_nothing_that_was_drawn(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered, drawn = chat(tokenizer, "[ab]"), spelled(tokenizer, "[", "a", "b", "]")
    monkeypatch.setattr(tokenizer, "chat_template", THINK)
    asked = [{"role": "user", "content": "?"}]
    plain = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    row = chat(tokenizer, "[ab]", prompt_ids=plain, sampled_ids=[drawn, None], ref_logprobs=[-3.0, None])
    assert (row["prompt_ids"], row["sampled"], row["reference"][0]) == (plain, [True, False], -3.0)
    # The repaired answer, which nobody drew, begins with what it says.
    assert row["completion_ids"] == [drawn, rendered["completion_ids"][1]]
    both = chat(tokenizer, "[ab]", prompt_ids=plain, sampled_ids=[drawn, spelled(tokenizer, "[", "b", "]")])
    assert (both["prompt_ids"], both["sampled"]) == (plain, [True, True])
    # Without the prompt's tokens, the template asks as it does for sampling.
    unknown = chat(tokenizer, "[ab]", sampled_ids=[drawn, None], ref_logprobs=[-3.0, None])
    assert repr(unknown) == repr(row)


def test_what_was_drawn_is_not_rendered_again_and_compared(tokenizer: Any) -> None:
    """At the limit of tokens a completion may end within a character, and then its text is not what its tokens say."""
    plain, drawn = chat(tokenizer, "[a]")["prompt_ids"], spelled(tokenizer, "[", "a", "]")
    row = chat(tokenizer, "[a\ufffd", prompt_ids=plain, sampled_ids=[drawn, None], ref_logprobs=[-3.0, None])
    assert (row["completion_ids"][0], row["sampled"], row["reference"][0]) == (drawn, [True, False], -3.0)


def test_an_answer_of_nothing_is_its_end_token(tokenizer: Any) -> None:
    for known in ({}, {"prompt_ids": chat(tokenizer, "[a]")["prompt_ids"]}):
        assert chat(tokenizer, "", **known)["completion_ids"][0] == [tokenizer.eos_token_id]


def test_columns_that_a_run_has_not_are_not_asked_for(tmp_path: Path) -> None:
    for name, column in (("without", []), ("with", ["prompt_ids"])):
        (tmp_path / name).mkdir()
        columns = ["text_id", "prompt", "completions", "scores", "ref_logprobs", "sampled_ids", "samples", *column]
        Dataset.from_list([dict.fromkeys(columns, 1)]).to_parquet(tmp_path / name / "part.parquet")
        found = load_rows(tmp_path / name, "lists", tmp_path / "cache").column_names
        assert sorted(found) == sorted(set(columns) - {"samples"})


def test_the_best_of_a_list_stay(tokenizer: Any) -> None:
    completions = [[{"role": "assistant", "content": f"[{word}]"}] for word in "abcd"]
    row = {"text_id": 1, "prompt": [{"role": "user", "content": "?"}], "completions": completions,
           "scores": [0.2, 0.9, 0.4, 0.4], "sampled_ids": [None] * 4, "ref_logprobs": [None] * 4}  # fmt: skip
    whole, best = (tokenized(Dataset.from_list([row]), tokenizer, kept)[0] for kept in (None, 2))
    assert whole["scores"] == row["scores"]
    assert best["scores"] == [0.9, 0.4]
    assert best["completion_ids"] == whole["completion_ids"][1:3]
    assert best["gap"] == whole["gap"] == pytest.approx(0.7)
    assert len(tokenized(Dataset.from_list([row]), tokenizer, 9)[0]["scores"]) == 4


def test_what_a_template_puts_behind_the_end_token_is_not_trained(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = chat(tokenizer, "[bridge]")
    monkeypatch.setattr(
        tokenizer, "chat_template", tokenizer.chat_template + "{{ 'x' }}"
    )  # white space is no token here
    assert chat(tokenizer, "[bridge]")["completion_ids"] == plain["completion_ids"]


def test_many_processes_tokenise_as_one(tokenizer: Any, pairs: Dataset) -> None:
    known = pairs.map(lambda row: dict.fromkeys(REFERENCES))
    alone, together = (tokenized(known, tokenizer, processes=processes).to_list() for processes in (1, 2))
    assert repr(together) == repr(alone)  # NaN, where a reference is not known, is not equal to itself
