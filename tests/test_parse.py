"""Parsing: what is valid, what is repaired, what is neither, and for which reason."""

import random
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semtag.generation.parse import Parsed, answer_of, answer_pattern, parse, same_answer_key
from semtag.generation.reasons import Defect, RejectReason

WORDS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8).map(
    lambda word: unicodedata.normalize("NFC", word)
)
TAGS = st.lists(WORDS, min_size=1, max_size=3, unique_by=lambda word: same_answer_key([word]))
PIECES = [
    "<think>",
    "</think>",
    "</s>",
    "<|x|>",
    "<|",
    "|>",
    "INST",
    "tag1",
    "\\[",
    "\\]",
    "\u0338",
    "\u200b",
    "\ufe0e",
    "\u037e",
]
BRACKETED = st.lists(st.sampled_from([*"[]ab,;|\"' \n\t!\x00é【】\uff3b\uff3d<>=", *PIECES]), max_size=30).map("".join)


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
        ("[harbour]<|end_of_text|>", ["harbour"]),
        ("[harbour]<|eot|>", ["harbour"]),
        ("[harbour][port]<|return|>", ["harbour", "port"]),
        ("<think>Is it [bread] or [cake]?</think>\n[oven][baking]", ["oven", "baking"]),
        ("\n<think>\n\n</think>\n\n[oven]", ["oven"]),
        ("Is it [bread] or [cake]?\n</think>\n\n[oven]", ["oven"]),  # where the template opens the thoughts
        ("[Lima, Peru][llamas]", ["Lima, Peru", "llamas"]),
        ("[either|or][this; that]", ["either|or", "this; that"]),
        ("[#harbour][C#]", ["#harbour", "C#"]),
        ('[5" pipe]', ['5" pipe']),
        ("\ufeff[har\u00adbour][port]", ["harbour", "port"]),
        ("[re\u0301sume\u0301]", ["r\u00e9sum\u00e9"]),
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
        ("[wind mill, grain, miller]", "separators", "[wind mill][grain][miller]"),
        ("[x; y; z; w]", "separators", "[x][y][z]"),
        ("[x|y]", "separators", "[x][y]"),
        ("[x、y\uff0cz]", "separators", "[x][y][z]"),
        ('["wind mill", "grain"]', "separators", "[wind mill][grain]"),
        ("['wind mill', 'grain']", "separators", "[wind mill][grain]"),
        ('["Lima, Peru", "llamas"]', "separators", "[Lima, Peru][llamas]"),
        ('["wind mill"]', "separators", "[wind mill]"),
        ("[grain,]", "separators", "[grain]"),
        ("[one two three four, five six seven eight]", "separators", "[one two three four][five six seven eight]"),
        ("Labels: [grain, miller]", "extra_text", "[grain][miller]"),
        ("[Lima, Peru][lima,  peru]", "repeated", "[Lima][Peru]"),  # one tag is left, and holds separators
        ("[mill][mill\u200b]", "repeated", "[mill]"),
        ("[mill][m\u034fill\ufe0f][mill\U000e0100]", "repeated", "[mill]"),
        ("[r\u00f4le][ro\u0302le]", "repeated", "[r\u00f4le]"),
        ("[\u0390][\u03aa\u0301]", "repeated", "[\u0390]"),  # one letter, small and capital
        ("【wind mill】【grain】", "extra_text", "[wind mill][grain]"),
        ("\uff3bwind mill\uff3d\uff3bgrain\uff3d", "extra_text", "[wind mill][grain]"),
        ("[【grain】]", "unbalanced", "[grain]"),
        (r"\[wind mill\]\[grain\]", "extra_text", "[wind mill][grain]"),
        (r"[wind\_mill]", "extra_text", "[wind_mill]"),
        ("```\n[wind mill][grain]\n```", "extra_text", "[wind mill][grain]"),
        ("1. [wind mill]\n2. [grain]", "extra_text", "[wind mill][grain]"),
        ("- [wind mill]\n- [grain]", "extra_text", "[wind mill][grain]"),
        ("**[wind mill]** **[grain]**", "extra_text", "[wind mill][grain]"),
        ("[[wind mill]][[grain]]", "unbalanced", "[wind mill][grain]"),
        ("[mill](https://a.b/c)[grain]", "extra_text", "[mill][grain]"),
        ("[mill][grain][/INST]", "placeholder", "[mill][grain]"),
        ("[INST] labels [/INST] [mill]", "extra_text", "[mill]"),
        ("[tag1][mill]", "placeholder", "[mill]"),
        ("<|assistant|>[mill]", "extra_text", "[mill]"),
        ("[mill<|im_start|>][</s>]", "extra_text", "[mill]"),
        ("[wind\x00mill][\x1fgrain]", "extra_text", "[wind mill][grain]"),
        ("[mill]<think>or [grain]</think>", "extra_text", "[mill][grain]"),  # leading thoughts alone are told apart
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
        ("<think>Perhaps [oven]", "empty"),
        ("[tag1][tag2][tag3]", "placeholder"),
        ("[Tag 1][Tag 2]", "placeholder"),
        ("[tag1, tag2, tag3]", "separators"),
        ("Labels: [tag1][tag2]", "extra_text"),
        ("[INST]", "placeholder"),
        ("<|im_start|>", "empty"),
        ("[\u200b]", "empty"),
        ("【】", "empty"),
    ],
)
def test_invalid(completion: str, reason: str) -> None:
    parsed = parse(completion)
    assert (parsed.format, parsed.reason, parsed.tags, parsed.answer) == ("invalid", reason, (), None)


def test_truncated_completion_loses_its_stump() -> None:
    parsed = parse("[steam engine][gover", truncated=True)
    assert (parsed.format, parsed.reason, parsed.tags) == ("repaired", "truncated", ("steam engine",))
    assert parse("<think>Is it [bread]", truncated=True).reason == "truncated"


def test_limits_are_the_callers() -> None:
    assert parse("[a][b][c][d]", max_tags=4).format == "valid"
    assert parse("[a b]", max_tag_words=1).reason == "verbose"
    assert parse("[a, b; c]", max_tags=1).tags == ("a, b; c",)
    assert parse("[a, b][c]", max_tags=1).tags == ("a, b",)


@settings(max_examples=10_000, deadline=None)
@example('["Lima, Peru", "!"]', False, 3)
@example(r"\\[a\\]", False, 3)
@example("[<|a<|b|>|>]", False, 3)
@given(BRACKETED | st.text(max_size=40), st.booleans(), st.integers(1, 3))
def test_no_input_raises_and_repair_is_idempotent(completion: str, truncated: bool, most: int) -> None:
    parsed = parse(completion, most, truncated=truncated)
    assert (parsed.answer is None) == (parsed.format == "invalid") == (parsed.tags == ())
    assert (parsed.reason is None) == (parsed.format == "valid")
    assert len(set(same_answer_key(parsed.tags))) == len(parsed.tags) <= most
    if parsed.answer is not None:
        again = parse(parsed.answer, most)
        assert (again.format, again.tags, again.answer) == ("valid", parsed.tags, parsed.answer)


def outside_of_thoughts(completion: str) -> str:
    """What a completion says behind its leading thoughts, in NFC, without backslashes and what shows nothing."""
    visible = "".join(c for c in completion if unicodedata.category(c) != "Cf" and c != "\ufe0e")
    visible = unicodedata.normalize("NFC", visible)
    head, end, rest = visible.partition("</think>")
    if head.lstrip().startswith("<think>") or (end and "<think>" not in head):
        visible = rest
    return unicodedata.normalize("NFC", visible.replace("\\", ""))


FUZZ = [
    *"[][][]abz,;|\"'` \n\t!\x00\x85é【】\uff3b\uff3d<>=\u0301\u1100\u1161\ud83d",
    *PIECES,
    "wind mill",
    "Lima, Peru",
    "[a]",
]
FUZZ += ["<think>", "</think>", "Labels: ", "</s>", "<|im_end|>", "][", "], [", '["a", "b"]', "tag 2", "\ufeff", "1. "]


def test_100_000_completions_are_read_without_an_error_or_an_invented_tag() -> None:
    chance = random.Random(0)
    formats = Counter[str]()
    for number in range(100_000):
        pieces = chance.choices(FUZZ, k=chance.randrange(24))
        if number % 2:  # nearly an answer
            pieces = [f"[{letter}{piece}]" for letter, piece in zip("abcd", pieces, strict=False)]
        completion = "".join(pieces)
        if number % 4 == 0:
            completion += chr(chance.randrange(0x110000))
        most, truncated = 1 + number % 3, number % 5 == 0
        parsed = parse(completion, most, truncated=truncated)
        formats[parsed.format] += 1
        if parsed.answer is None:
            assert parsed.format == "invalid" and parsed.tags == (), repr(completion)
            continue
        assert parse(parsed.answer, most) == Parsed(parsed.tags, "valid", None, parsed.answer), repr(completion)
        said = outside_of_thoughts(completion)
        assert all(word in said for tag in parsed.tags for word in tag.split()), repr(completion)
        if "<" not in said and said.isprintable():  # a marker or a control character parts words
            assert all(tag in " ".join(said.split()) for tag in parsed.tags), repr(completion)
    assert min(formats[kind] for kind in ("valid", "repaired", "invalid")) > 1000, formats


@given(TAGS)
def test_a_valid_answer_survives_unchanged(tags: list[str]) -> None:
    parsed = parse(answer_of(tags))
    assert (parsed.format, parsed.tags, parsed.answer) == ("valid", tuple(tags), answer_of(tags))


@given(TAGS.filter(lambda tags: len(tags) > 1), st.sampled_from([", ", ";", " | ", "\uff0c"]))
def test_a_bracket_of_all_tags_comes_apart_and_several_stay_whole(tags: list[str], separator: str) -> None:
    one = parse(f"[{separator.join(tags)}]")
    assert (one.format, one.reason, one.tags) == ("repaired", "separators", tuple(tags))
    several = parse(answer_of([separator.join(tags), "more"]))
    assert (several.format, several.tags) == ("valid", (" ".join(separator.join(tags).split()), "more"))


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_what_the_pattern_lets_through_is_well_formed(most: int, words: int, data: st.DataObject) -> None:
    completion = data.draw(st.from_regex(answer_pattern(most, words), fullmatch=True))
    assert parse(completion, most, words).reason in (None, "repeated", "empty", "placeholder", "separators")


@given(TAGS)
def test_the_pattern_lets_valid_answers_through(tags: list[str]) -> None:
    assert re.fullmatch(answer_pattern(), answer_of(tags))
    assert re.fullmatch(answer_pattern(), " " + "".join(f"[ {tag} ] " for tag in tags).rstrip())
    assert not re.fullmatch(answer_pattern(len(tags)), answer_of([*tags, "more"]))


@pytest.mark.parametrize("reasons", [RejectReason, Defect])
def test_each_reason_is_a_plain_value_with_a_sentence(reasons: type[RejectReason] | type[Defect]) -> None:
    for reason in reasons:
        assert reason == reason.value == reason.name.lower() == f"{reason}" and reasons(reason.value) is reason
        assert reason.sentence[0].isupper() and reason.sentence.endswith(".")
