"""Why a row or a text is rejected, and why a completion is malformed: the values that files hold, a sentence each."""

from enum import StrEnum


class _Reason(StrEnum):
    """A value as files and ledgers hold it, and a `sentence` that says it to a person."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> "_Reason":
        reason = str.__new__(cls, value)
        reason._value_, reason.sentence = value, sentence
        return reason


class RejectReason(_Reason):
    """Why a row of the data, or the text in it, was not used."""

    BROKEN_LINE = "broken_line", "The line or record cannot be read in its format."
    INVALID_UTF8 = "invalid_utf8", "The row holds bytes that are no UTF-8."
    EXTRA_CELLS = "extra_cells", "The row of a CSV file has more cells than there are columns."
    MISSING_COLUMN = "missing_column", "The row has no column of the name in data.column."
    NULL_TEXT = "null_text", "The text is null."
    NOT_TEXT = "not_text", "The value in the text's column is no string."
    EMPTY_TEXT = "empty_text", "The text shows nothing: it has white space or hidden characters alone."
    DUPLICATE = "duplicate", "An earlier row has the same text."
    MORE_CANDIDATES = "more_candidates", "An earlier row has the same text with other candidates."
    TOO_LONG = "too_long", "The prompt and the answer do not fit into the model's window."
    REFUSED_BY_TEMPLATE = "refused_by_template", "The chat template or the tokenizer refuses the text."
    REFUSED_BY_ENGINE = "refused_by_engine", "The engine refuses the prompt."
    KILLS_ENGINE = "kills_engine", "Engines died each time that they had this text."
    NO_CANDIDATES = "no_candidates", "The column of candidates holds none that can be read."
    NOT_A_NUMBER = "not_a_number", "An embedding of the text or of its tags is not finite."
    OTHER_TEXT_OF_SAME_ID = "other_text_of_same_id", "Another text has the same 64-bit hash."


class Defect(_Reason):
    """Why a completion is malformed; the first one that applies is given."""

    TRUNCATED = "truncated", "Generation stopped at its token limit, so the last tag may be a stump."
    EMPTY = "empty", "There is no tag, or one without a letter or digit."
    UNBALANCED = "unbalanced", "A bracket is not closed, not opened, or within another one."
    EXTRA_TEXT = "extra_text", "There is more than tags, white space, leading thoughts and stop tokens."
    SEPARATORS = "separators", "One bracket holds all tags, such as [a, b]."
    PLACEHOLDER = "placeholder", "A tag is a placeholder, such as [tag1]."
    TOO_MANY = "too_many", "There are more tags than prompt.max_tags."
    VERBOSE = "verbose", "A tag has more words than prompt.max_tag_words."
    REPEATED = "repeated", "A tag stands twice, case and white space aside."
