"""Completion -> tags. What is valid, what can be repaired, what cannot, and why."""

import re
from dataclasses import dataclass
from typing import Literal

Format = Literal["valid", "repaired", "invalid"]
Reason = Literal["truncated", "empty", "unbalanced", "extra_text", "too_many", "verbose", "repeated"]

# Stop tokens that APIs and raw decodings leave at the end of a completion.
STOP_TOKENS = ("</s>", "<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<end_of_turn>")

_WELL_BRACKETED = re.compile(r"(?:\s*\[[^\[\]]*\])+\s*")
_TAG = re.compile(r"\[([^\[\]]*)\]")
# A tag whose closing bracket is missing ends where the next one opens, or at the end of its line.
_TAG_OR_OPEN_TAG = re.compile(r"\[([^\[\]\n]*)(?:\]|(?=\[)|(?=\n)|$)")


@dataclass(frozen=True)
class Parsed:
    """`answer` is None exactly when `format` is invalid; `reason` exactly when it is valid."""

    tags: tuple[str, ...]
    format: Format
    reason: Reason | None
    answer: str | None


def parse(completion: str, max_tags: int = 3, max_tag_words: int = 6, truncated: bool = False) -> Parsed:
    """Read the tags out of a completion.

    Valid: one to `max_tags` bracketed tags and nothing else but white space and stop tokens; each tag has a
    letter or digit and at most `max_tag_words` words; no tag twice (case and white space aside).
    Anything else is malformed, for the first reason that applies in the order of `Reason`, and repaired if any
    usable tag is left. `truncated` says that generation stopped at its token limit, so the last tag may be a stump.
    """
    body = _strip_stop_tokens(completion)
    reason = _defect(body, max_tags, max_tag_words, truncated)
    if reason is None:
        tags = tuple(_squeeze(tag) for tag in _TAG.findall(body))
        return Parsed(tags, "valid", None, answer_of(tags))
    tags = _salvage(body, max_tags, max_tag_words, truncated)
    if not tags:
        return Parsed((), "invalid", reason, None)
    return Parsed(tags, "repaired", reason, answer_of(tags))


def answer_of(tags: tuple[str, ...] | list[str]) -> str:
    """The canonical answer, `[tag1][tag2]`."""
    return "".join(f"[{tag}]" for tag in tags)


def answer_pattern(max_tags: int = 3, max_tag_words: int = 6) -> str:
    """A regular expression of the valid answers, for decoding within it.

    It says nothing of repeated tags, and takes words without a letter: what matches it is valid, `repeated` or `empty`.
    Single spaces stand wherever the parser squeezes them, since some tokenizers have no bracket without one.
    """
    word = r"[^\[\]\s]+"
    tag = rf"\[ ?{word}( {word}){{0,{max_tag_words - 1}}} ?\]"
    return rf" ?{tag}( ?{tag}){{0,{max_tags - 1}}}"


def same_answer_key(tags: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Two answers are equal when these are: same tags in the same order, case and white space aside."""
    return tuple(_squeeze(tag).casefold() for tag in tags)


def _defect(body: str, max_tags: int, max_tag_words: int, truncated: bool) -> Reason | None:
    tags = [_squeeze(tag) for tag in _TAG.findall(body)]
    if truncated:
        return "truncated"
    if not body or not any(map(_has_word, tags or [body])):
        return "empty"
    if not _balanced(body):
        return "unbalanced"
    if not _WELL_BRACKETED.fullmatch(body):
        return "extra_text"
    if not all(map(_has_word, tags)):
        return "empty"
    if len(tags) > max_tags:
        return "too_many"
    if any(len(tag.split()) > max_tag_words for tag in tags):
        return "verbose"
    if len(set(same_answer_key(tags))) < len(tags):
        return "repeated"
    return None


def _salvage(body: str, max_tags: int, max_tag_words: int, truncated: bool) -> tuple[str, ...]:
    # In a truncated completion only closed tags can be trusted to be whole.
    found = (_TAG if truncated else _TAG_OR_OPEN_TAG).findall(body)
    kept: dict[str, str] = {}
    for tag in map(_squeeze, found):
        if _has_word(tag) and len(tag.split()) <= max_tag_words:
            kept.setdefault(tag.casefold(), tag)
    return tuple(kept.values())[:max_tags]


def _strip_stop_tokens(completion: str) -> str:
    body = completion.strip()
    while body.endswith(STOP_TOKENS):
        stop = next(token for token in STOP_TOKENS if body.endswith(token))
        body = body[: -len(stop)].rstrip()
    return body


def _balanced(body: str) -> bool:
    """Brackets open and close in turn and never nest."""
    brackets = re.sub(r"[^\[\]]", "", body)
    return brackets == "[]" * (len(brackets) // 2)


def _has_word(tag: str) -> bool:
    return any(map(str.isalnum, tag))


def _squeeze(tag: str) -> str:
    return " ".join(tag.split())
