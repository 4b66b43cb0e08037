"""Completions as tokens: those that were sampled where they are known, in full, or counted."""

import math
from typing import Any

import pytest
from datasets import Dataset

from training.data import REFERENCES, fit_length, tokenized


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


def test_tokens_that_say_something_else_are_not_trained(tokenizer: Any) -> None:
    rendered = chat(tokenizer, "[bridge]")
    others = chat(tokenizer, "[bridge]", sampled_ids=[[5, 6, 7], None], ref_logprobs=[-3.0, None])
    assert others["completion_ids"] == rendered["completion_ids"]
    assert math.isnan(others["reference"][0])


def test_what_a_template_puts_behind_the_end_token_is_not_trained(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = chat(tokenizer, "[bridge]")
    monkeypatch.setattr(
        tokenizer, "chat_template", tokenizer.chat_template + "{{ 'x' }}"
    )  # white space is no token here
    assert chat(tokenizer, "[bridge]")["completion_ids"] == plain["completion_ids"]


def test_many_processes_tokenise_as_one(tokenizer: Any, pairs: Dataset) -> None:
    alone, together = (tokenized(pairs, tokenizer, processes).to_list() for processes in (1, 2))
    assert repr(together) == repr(alone)  # NaN, where a reference is not known, is not equal to itself
