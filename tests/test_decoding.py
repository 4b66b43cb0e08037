"""How a model is asked: the examples it is shown, the grammar it keeps to, and what the candidates are drawn by."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config, Prompt
from semtag.generation.decoding import candidates, greedy, read_examples, sampled
from semtag.generation.prompts import build_messages
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo.yaml"
ONE = {"text": "A mill grinds grain.", "answer": "[mill][grain]"}
SHOWN = (("A mill grinds grain.", "[mill][grain]"),)


def config_of(*overrides: str) -> Config:
    return load_config(DEMO, [f"prompt.examples=[{json.dumps(ONE)}]", *overrides])


def test_examples_come_from_the_config_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    other = {"text": "Bees fly.", "answer": "[bees]"}
    file.write_text(f"{json.dumps(ONE)}\n\n{json.dumps(other)}\n")
    assert read_examples(config_of().prompt) == SHOWN
    assert read_examples(config_of(f"prompt.examples={file}").prompt) == (*SHOWN, ("Bees fly.", "[bees]"))
    assert read_examples(config_of("prompt.examples=[]").prompt) == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"}', "answer"),
        ('{"text": "x", "answer": "[a]", "more": 1}', "more"),
        ("{", "Cannot read the examples in"),
        ('{"text": "x", "answer": "a, b"}', "The example answer 'a, b' is malformed: extra_text."),
        ('{"text": "x", "answer": "[a][a]"}', "is malformed: repeated."),
        ('{"text": "x", "answer": "[tag1][b]"}', "is malformed: placeholder."),
        ('{"text": "x", "answer": "[a][b][c][d]"}', "at most 3 tags in prompt.examples"),
    ],
)
def test_mistakes_in_examples_are_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        read_examples(Prompt(examples=str(file)))
    assert message in str(caught.value)
    with pytest.raises(UserError, match="No such file"):
        read_examples(Prompt(examples=str(tmp_path / "none.jsonl")))


def test_an_example_of_the_config_needs_text_and_answer() -> None:
    with pytest.raises(UserError, match=r"prompt\.examples\.0\.answer is missing"):
        load_config(DEMO, ["prompt.examples=[{text: x}]"])


def test_only_the_first_round_is_shown_examples() -> None:
    config = config_of("sampling.top_k=7", "sampling.top_p=0.9")
    first, later = candidates(config, first_round=True), candidates(config, first_round=False)
    assert first.examples == SHOWN and later == replace(first, examples=())
    assert (first.samples, first.temperature, first.top_p, first.top_k, first.max_tokens) == (8, 0.5, 0.9, 7, 40)
    assert first.pattern is None and not first.vote


def test_candidates_keep_to_the_grammar_where_the_config_says_so() -> None:
    config = config_of("sampling.constrained=true", "prompt.max_tags=2", "prompt.max_tag_words=1")
    pattern = candidates(config, first_round=False).pattern
    assert pattern and re.fullmatch(pattern, "[mill][grain]")
    assert not re.fullmatch(pattern, "[mill][grain][flour]") and not re.fullmatch(pattern, "[old mill]")
    assert greedy(config, "x").pattern is None and greedy(config, "x", constrained=True).pattern == pattern


def test_votes_are_sampled_and_answers_are_not() -> None:
    voting = sampled(config_of(), "votes", samples=5, vote=True)
    assert (voting.samples, voting.temperature, voting.vote) == (5, 0.5, True)
    assert greedy(config_of(), "x").samples == 1 and greedy(config_of(), "x").temperature == 0


def test_candidates_are_read_and_no_tagger_is() -> None:
    config = config_of("sampling.engine=replay")
    assert [candidates(one, first_round=True).engine for one in (config, config_of())] == ["replay", "vllm"]
    assert greedy(config, "tuned").engine == sampled(config, "tuned_vote").engine == "vllm"


def test_the_system_message_says_how_many_tags() -> None:
    for most in (1, 5):
        [system, _] = build_messages("t", Prompt(max_tags=most), system_role=True)
        assert f"Write a maximum of {most} short labels" in system["content"]
        [user] = build_messages("t", Prompt(max_tags=most), system_role=False)
        assert f"Write a maximum of {most} short labels" in user["content"]
    plain = build_messages("t", Prompt(system="Tag {text}: {max_tags} of {max_tags}.", max_tags=2), system_role=True)
    assert plain[0]["content"] == "Tag {text}: 2 of 2."
    assert build_messages("{max_tags}", Prompt(), system_role=True)[1]["content"].endswith("{max_tags}")
