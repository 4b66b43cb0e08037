"""The parser of completions into tags: valid, repaired or invalid, with the reason."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from semtag.generation.reasons import Defect

Format = Literal["valid", "repaired", "invalid"]  # a repaired or invalid completion is malformed

# Stop tokens that APIs and raw decodings leave at the end of a completion.
STOP_TOKENS: tuple[str, ...] = ("</s>", "<|im_end|>", "<|eot_id|>", "<|eot|>", "<|end|>", "<|endoftext|>")
STOP_TOKENS += ("<|end_of_text|>", "<|return|>", "<end_of_turn>")

# Thoughts before the answer. A completion without an answer lacks their end. Where the chat template wrote their start,
# the completion lacks the start.
_THOUGHTS = re.compile(r"\A(?:\s*<think>.*?(?:</think>|\Z)|(?:(?!<think>).)*?</think>)", re.DOTALL)
# Marks of chat templates and control characters belong to no tag.
MARKS = r"<[|\uff5c][^<>\[\]\s]*[|\uff5c]>|</?(?:s|think)>|<</?SYS>>|<(?:start|end)_of_turn>"
_MARKER = re.compile(MARKS + r"|[\0-\x08\x0e-\x1f\x7f-\x9f]")
# Placeholders, and tokens of chat templates that stand in brackets, such as [INST].
_NO_TAG = re.compile(r"(?i:tag ?\d+)|/?(?:INST|SYSTEM_PROMPT|THINK|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)")
# Chinese and fullwidth brackets, and the backslash that Markdown and LaTeX put before a bracket.
_PLAIN_BRACKETS = str.maketrans("\u3010\u3011\uff3b\uff3d", "[][]", "\\")
_PIECE = re.compile(r'\s*"[^"]*"|[^,;|\uff0c\u3001\uff1b\uff5c]+')
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019")
_WELL_BRACKETED = re.compile(r"(?:\s*\[[^\[\]]*\])+\s*")
_TAG = re.compile(r"\[([^\[\]]*)\]")
# The grapheme joiner and the variation selectors. They show nothing either, but are in another category than Cf.
_SELECTOR = re.compile("[\u034f\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# A tag without its closing bracket ends at the next opening bracket, or at the end of its line.
_TAG_OR_OPEN_TAG = re.compile(r"\[([^\[\]\n]*)(?:\]|(?=\[)|(?=\n)|$)")


LONGEST_WORD = 30  # characters of a word in the pattern for constrained decoding


@dataclass(frozen=True)
class Parsed:
    """The tags of a completion. `answer` is None for the format `invalid` only, `reason` for `valid` only."""

    tags: tuple[str, ...]
    format: Format
    reason: Defect | None
    answer: str | None


def parse(completion: str, max_tags: int = 3, max_tag_words: int = 6, truncated: bool = False) -> Parsed:
    """Parse a completion into tags, in NFC and without format characters.

    A valid completion has one to `max_tags` bracketed tags, and beside them only leading thoughts, white space and stop
    tokens. Each tag has a letter or digit and at most `max_tag_words` words. No tag occurs twice (case and white space
    aside) or is a placeholder, such as `[tag1]`. No bracket holds all tags, such as `[a, b]`. Any other completion is
    malformed. `reason` is the first defect that `_defect` finds. The completion is repaired if a usable tag is left.
    `truncated` says that generation stopped at its token limit, so the last tag may be cut off.
    Example: `Tags: [a][b]` becomes the tags a and b, repaired, with the reason `extra_text`.
    """
    body = _strip_stop_tokens(_THOUGHTS.sub("", visible(completion)))
    plain = _MARKER.sub(" ", body.translate(_PLAIN_BRACKETS))
    tags = [_squeeze(tag) for tag in _TAG.findall(plain)]
    reason = _defect(body, plain, tags, max_tags, max_tag_words, truncated)
    if reason is None:
        return Parsed(tuple(tags), "valid", None, answer_of(tags))
    # In a truncated completion, a tag without its closing bracket may be cut off.
    found = tags if truncated else [_squeeze(tag) for tag in _TAG_OR_OPEN_TAG.findall(plain)]
    tags = _salvage(found, max_tags, max_tag_words)
    if not tags:
        return Parsed((), "invalid", reason, None)
    return Parsed(tuple(tags), "repaired", reason, answer_of(tags))


def answer_of(tags: Sequence[str]) -> str:
    """Join tags to a canonical answer: a and b become `[a][b]`."""
    return "".join(f"[{tag}]" for tag in tags)


def answer_pattern(max_tags: int = 3, max_tag_words: int = 6) -> str:
    """Return a regular expression of the valid answers, for constrained decoding.

    A match is valid, `repeated`, `empty` or `placeholder`, because the expression cannot rule out these defects. The
    expression excludes characters that separate tags within a bracket. It excludes words of more than LONGEST_WORD
    characters, because only degenerate output has such words. A single space may stand wherever the parser removes it,
    because some tokenizers have no bracket without a space.
    """
    word = rf"[^\[\]\u3010\u3011\uff3b\uff3d\\<,;|\"\uff0c\u3001\uff1b\uff5c\s\x00-\x1f\x7f-\xa0]{{1,{LONGEST_WORD}}}"
    tag = rf"\[ ?{word}( {word}){{0,{max_tag_words - 1}}} ?\]"
    return rf" ?{tag}( ?{tag}){{0,{max_tags - 1}}}"


def same_answer_key(tags: Sequence[str]) -> tuple[str, ...]:
    """Return a key that answers share if their tags are the same in the same order, case and white space aside."""
    return tuple(_squeeze(_squeeze(tag).casefold()) for tag in tags)


def count_words(tags: Iterable[str]) -> int:
    """Count the words of all tags together."""
    return len(" ".join(tags).split())


def _defect(
    body: str, plain: str, tags: list[str], max_tags: int, max_tag_words: int, truncated: bool
) -> Defect | None:
    # Look at the whole completion.
    if truncated:
        return Defect.TRUNCATED
    if not any(map(_has_word, tags or [plain])):
        return Defect.EMPTY
    if not _balanced(plain):
        return Defect.UNBALANCED
    if plain != body or not _WELL_BRACKETED.fullmatch(plain):
        return Defect.EXTRA_TEXT
    # Look at the tags.
    if not all(map(_has_word, tags)):
        return Defect.EMPTY
    if max_tags > 1 and len(tags) == 1 and _pieces(tags[0]) != tags:
        return Defect.SEPARATORS
    if any(map(_NO_TAG.fullmatch, tags)):
        return Defect.PLACEHOLDER
    if len(tags) > max_tags:
        return Defect.TOO_MANY
    if any(len(tag.split()) > max_tag_words for tag in tags):
        return Defect.VERBOSE
    if len(set(same_answer_key(tags))) < len(tags):
        return Defect.REPEATED
    return None


def _salvage(found: list[str], max_tags: int, max_tag_words: int) -> list[str]:
    """Return the usable tags. A tag that is alone is split at its separators: `a, b` becomes a and b."""
    kept = _usable(found, max_tag_words)
    while max_tags > 1 and len(alone := kept or found) == 1 and (found := _pieces(alone[0])) != alone:
        kept = _usable(found, max_tag_words)
    return kept[:max_tags]


def _usable(tags: Iterable[str], max_tag_words: int) -> list[str]:
    kept: dict[tuple[str, ...], str] = {}
    for tag in tags:
        if _has_word(tag) and not _NO_TAG.fullmatch(tag) and len(tag.split()) <= max_tag_words:
            kept.setdefault(same_answer_key([tag]), tag)
    return list(kept.values())


def _pieces(tag: str) -> list[str]:
    """Split a tag at its separators and remove quotes: `"a", "b, c"` becomes `a` and `b, c`."""
    pieces = map(str.strip, _PIECE.findall(tag))
    return [_squeeze(piece[1:-1] if piece[:1] + piece[-1:] in _QUOTES else piece) for piece in pieces]


def _strip_stop_tokens(completion: str) -> str:
    body = completion.strip()
    while body.endswith(STOP_TOKENS):
        stop = next(token for token in STOP_TOKENS if body.endswith(token))
        body = body[: -len(stop)].rstrip()
    return body


def _balanced(body: str) -> bool:
    """Check that brackets open and close in turn and never nest."""
    brackets = re.sub(r"[^\[\]]", "", body)
    return brackets == "[]" * (len(brackets) // 2)


def _has_word(tag: str) -> bool:
    return any(map(str.isalnum, tag))


def _squeeze(tag: str) -> str:
    return " ".join(visible(tag).split())


def visible(text: str) -> str:
    """Return the text in NFC, without characters that show nothing: Unicode category Cf and variation selectors."""
    if text.isascii():
        return text
    hidden = {one for one in set(text) if unicodedata.category(one) == "Cf" or _SELECTOR.match(one)}
    return unicodedata.normalize("NFC", "".join(c for c in text if c not in hidden) if hidden else text)
