"""Reasons why a text is rejected or a completion malformed: a value for files, and a sentence for people."""

from enum import StrEnum


class _Reason(StrEnum):
    """A value, as files and ledgers hold it, with a `sentence` that explains it to a person."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> "_Reason":
        reason = str.__new__(cls, value)
        reason._value_, reason.sentence = value, sentence
        return reason


class RejectReason(_Reason):
    """The reason why Semtag rejects a row of the data, or the text in the row."""

    BROKEN_LINE = "broken_line", "The line or record cannot be parsed in the file's format."
    INVALID_UTF8 = "invalid_utf8", "The row holds bytes that are not UTF-8."
    EXTRA_CELLS = "extra_cells", "The row of a CSV file has more cells than the header has columns."
    MISSING_COLUMN = "missing_column", "The row does not have the column that data.column names."
    NULL_TEXT = "null_text", "The text is null."
    NOT_TEXT = "not_text", "The value in the text's column is not a string."
    EMPTY_TEXT = "empty_text", "The text has only white space and hidden characters."
    DUPLICATE = "duplicate", "An earlier row has the same text."
    MORE_CANDIDATES = "more_candidates", "An earlier row has the same text with other candidates."
    TOO_LONG = "too_long", "The prompt and the answer do not fit into the model's context window."
    REFUSED_BY_TEMPLATE = "refused_by_template", "The chat template or the tokenizer refuses the text."
    REFUSED_BY_ENGINE = "refused_by_engine", "The engine refuses the prompt."
    KILLS_ENGINE = "kills_engine", "Several engines died while they sampled this text."
    NO_CANDIDATES = "no_candidates", "The column sampling.candidates has no candidate that can be read."
    NOT_A_NUMBER = "not_a_number", "A score of the text's tags is not finite, such as the cosine of a bad embedding."
    SCORER_FAILED = "scorer_failed", "A scorer of scoring.scorers fails at the text."
    OTHER_TEXT_OF_SAME_ID = "other_text_of_same_id", "Another text has the same 64-bit hash."


class Defect(_Reason):
    """The reason why a completion is malformed: the first defect that the parser finds."""

    TRUNCATED = "truncated", "Generation stopped at its token limit, so the last tag may be cut off."
    EMPTY = "empty", "The completion has no tag, or a tag without a letter or digit."
    UNBALANCED = "unbalanced", "A bracket is not closed, not opened, or inside another bracket."
    EXTRA_TEXT = "extra_text", "The completion has other text than tags, a leading <think> block and stop tokens."
    SEPARATORS = "separators", "One bracket holds all tags, such as [a, b]."
    PLACEHOLDER = "placeholder", "A tag is a placeholder, such as [tag1]."
    TOO_MANY = "too_many", "The completion has more tags than prompt.max_tags."
    VERBOSE = "verbose", "A tag has more words than prompt.max_tag_words."
    REPEATED = "repeated", "A tag occurs twice, where case and white space do not count."
