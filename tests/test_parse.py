"""Parsing: what is valid, what is repaired, what is neither, and for which reason."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.parse import answer_of, answer_pattern, parse

WORDS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
TAGS = st.lists(WORDS, min_size=1, max_size=3, unique_by=str.casefold)
BRACKETED = st.text(st.sampled_from("[]ab, \n\t!\x00é"), max_size=40)


@pytest.mark.parametrize(
    ("completion", "tags"),
    [
        ("[steam engine][governor][James Watt]", ["steam engine", "governor", "James Watt"]),
        ("[ britain ] [ colonies ]", ["britain", "colonies"]),
        ("  [one]\n[two]\n", ["one", "two"]),
        ("[one]</s>", ["one"]),
        ("[one][two]<|im_end|> </s>", ["one", "two"]),
        ("[C++]", ["C++"]),
        ("[鉄道]", ["鉄道"]),
    ],
)
def test_valid(completion: str, tags: list[str]) -> None:
    parsed = parse(completion)
    assert (parsed.format, parsed.reason, list(parsed.tags)) == ("valid", None, tags)
    assert parsed.answer == answer_of(tags)


@pytest.mark.parametrize(
    ("completion", "reason", "answer"),
    [
        ("Sure! Here are the labels: [a][b]", "extra_text", "[a][b]"),
        ("[a][b] These labels describe the text.", "extra_text", "[a][b]"),
        ("[a], [b]", "extra_text", "[a][b]"),
        ("[a][b][c][d]", "too_many", "[a][b][c]"),
        ("[a][b", "unbalanced", "[a][b]"),
        ("[a [b]]", "unbalanced", "[a][b]"),
        ("a][b]", "unbalanced", "[b]"),
        ("[a][a][a]", "repeated", "[a]"),  # accepted as well formed by the published code
        ("[a][A ]", "repeated", "[a]"),
        ("[a][]", "empty", "[a]"),
        ("[a][!]", "empty", "[a]"),
        ("[one two three four five six seven][b]", "verbose", "[b]"),
    ],
)
def test_repaired(completion: str, reason: str, answer: str) -> None:
    parsed = parse(completion)
    assert (parsed.format, parsed.reason, parsed.answer) == ("repaired", reason, answer)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("</s>", "empty"),
        ("[]", "empty"),  # accepted as well formed by the published code
        ("[ ][...]", "empty"),
        ("steam engine, governor", "extra_text"),
        ("[", "empty"),
        ("[one two three four five six seven]", "verbose"),
    ],
)
def test_invalid(completion: str, reason: str) -> None:
    parsed = parse(completion)
    assert (parsed.format, parsed.reason, parsed.tags, parsed.answer) == ("invalid", reason, (), None)


def test_truncated_completion_loses_its_stump() -> None:
    parsed = parse("[steam engine][gover", truncated=True)
    assert (parsed.format, parsed.reason, parsed.tags) == ("repaired", "truncated", ("steam engine",))


def test_limits_are_the_callers() -> None:
    assert parse("[a][b][c][d]", max_tags=4).format == "valid"
    assert parse("[a b]", max_tag_words=1).reason == "verbose"


@settings(max_examples=10_000, deadline=None)
@given(BRACKETED | st.text(max_size=40), st.booleans())
def test_no_input_raises_and_repair_is_idempotent(completion: str, truncated: bool) -> None:
    parsed = parse(completion, truncated=truncated)
    assert (parsed.answer is None) == (parsed.format == "invalid") == (parsed.tags == ())
    assert (parsed.reason is None) == (parsed.format == "valid")
    if parsed.answer is not None:
        again = parse(parsed.answer)
        assert (again.format, again.tags, again.answer) == ("valid", parsed.tags, parsed.answer)


@given(TAGS)
def test_a_valid_answer_survives_unchanged(tags: list[str]) -> None:
    parsed = parse(answer_of(tags))
    assert (parsed.format, parsed.answer) == ("valid", answer_of(tags))


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_what_the_pattern_lets_through_is_well_formed(most: int, words: int, data: st.DataObject) -> None:
    completion = data.draw(st.from_regex(answer_pattern(most, words), fullmatch=True))
    assert parse(completion, most, words).reason in (None, "repeated", "empty")


@given(TAGS)
def test_the_pattern_lets_valid_answers_through(tags: list[str]) -> None:
    assert re.fullmatch(answer_pattern(), answer_of(tags))
    assert re.fullmatch(answer_pattern(), " " + "".join(f"[ {tag} ] " for tag in tags).rstrip())
    assert not re.fullmatch(answer_pattern(len(tags)), answer_of([*tags, "more"]))
