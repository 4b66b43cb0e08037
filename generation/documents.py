"""Documents that are longer than data.max_words, split at the ends of sentences into rows of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from semtag.configs.data import Data
from semtag.generation.cells import encodable
from semtag.store.hashing import hash64

if TYPE_CHECKING:
    from semtag.generation.readers import Row


class Part(NamedTuple):
    """The place of a row among the parts of its document.

    `document` is the hash of the document's text, and `whole` has the values of the document's own row.
    """

    document: int
    whole: dict[str, Any]
    number: int = 1
    of: int = 1


def split_rows(rows: "Iterator[Row]", data: Data) -> "Iterator[Row]":
    """Yield the rows, and a row for each part in place of a row whose text has more than data.max_words words.

    A part has the other columns of its row, and `part` and `parts` beside them where the row has no such columns.
    """
    if data.max_words is None:
        yield from rows
        return
    for row in rows:
        text = row.values.get(data.column)
        if row.problem or not isinstance(text, str):
            yield row
            continue
        document, parts = hash64("document", encodable(text)), split_document(text, data.max_words)
        if len(parts) == 1:
            yield replace(row, part=Part(document, row.values))
            continue
        for number, part in enumerate(parts, 1):
            values: dict[str, Any] = {"part": number, "parts": len(parts)} | row.values | {data.column: part}
            yield replace(row, values=values, part=Part(document, row.values, number, len(parts)))


def split_document(text: str, most: int) -> list[str]:
    """Split a text into parts of at most `most` words, at the ends of sentences where these are no longer than that.

    The parts are about equally long, so that none is a rest of a few words. A text that fits is returned as it is.
    Example: `One two. Three. Four five.` with 3 words as most becomes `["One two. Three.", "Four five."]`.
    """
    left = len(text.split())
    if left <= most:
        return [text]
    parts, words, aim = list[str](), list[str](), _even(left, most)
    for sentence in _pieces(text, most):
        if words and (len(words) + len(sentence) > most or len(words) >= aim):
            parts.append(" ".join(words))
            left -= len(words)
            words, aim = [], _even(left, most)
        words = [*words, *sentence]
    return [*parts, " ".join(words)]


def _even(words: int, most: int) -> int:
    """Return the length of each of the fewest equal parts of so many words."""
    return -(-words // -(-words // most))


def _pieces(text: str, most: int) -> Iterator[Sequence[str]]:
    """Yield the words of each sentence, and those of a longer sentence in pieces of at most `most` words."""
    from segtok.segmenter import split_multi

    for sentence in split_multi(text):
        words = sentence.split()
        for start in range(0, len(words), most):
            yield words[start : start + most]
