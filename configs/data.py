"""The configuration keys of the data: where the texts lie, and how Semtag reads and splits them."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from semtag.configs.fields import PlaceName, Positive, Section


class Data(Section):
    """The location, format and split of the texts."""

    path: PlaceName | Annotated[list[PlaceName], Field(min_length=1)] = Field(
        description="File, folder or pattern such as texts/*.jsonl.gz, on a disk or in s3:// or gs://; or a Hugging "
        "Face dataset name; or a list of these."
    )
    format: Literal["auto", "jsonl", "json", "parquet", "csv", "text", "squad", "hub", "disk"] = Field(
        "auto", description="Format of the data; auto decides by the file's ending, for .json by its content."
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="Sign between cells of CSV; null looks for a comma, semicolon, tab or | in the header."
    )
    encoding: str = Field("utf-8", description="Encoding of JSON, CSV and plain text, such as cp1252.")
    column: str = Field("text", description="Column that holds the text.")
    article_column: str | None = Field(None, description="Column that names the article a text comes from.")
    subset: str | None = Field(None, description="Configuration name of a Hugging Face dataset.")
    split: str = Field("train", description="Split of a Hugging Face dataset.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face dataset; null: the newest.")
    max_words: Positive | None = Field(
        None,
        description="Split a longer text at the ends of sentences into parts of at most so many words. The parts of a "
        "text are held out together, and `semtag tag` gives the text the tags that most of its parts have.",
    )
    limit: Positive | None = Field(None, description="Read at most this many rows.")
    held_out: Annotated[float, Field(ge=0, le=0.9)] = Field(0.1, description="Share of texts kept for evaluation.")
    held_out_by: Literal["text", "article"] = Field(
        "text", description="Unit that is held out: a text, or all texts of an article."
    )
    split_seed: int | None = Field(None, ge=0, description="Seed that chooses the held-out texts; null: run.seed.")

    @property
    def paths(self) -> list[str]:
        """Return the paths as a list, also for a single path."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def where(self) -> str:
        """Return the paths as messages show them, separated by commas."""
        return ", ".join(self.paths)

    @field_validator("delimiter", mode="before")
    @classmethod
    def _is_a_delimiter(cls, sign: object) -> object:
        if isinstance(sign, str) and sign in '"\r\n':
            raise ValueError(f"{sign!r} cannot separate cells; use another character, such as ';'")
        return "\t" if sign == "\\t" else sign  # as a shell passes it on

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, name: str) -> str:
        try:
            "".encode(name)
        except LookupError as error:
            raise ValueError(f"{error}; use an encoding that Python knows, such as cp1252 or utf-16") from None
        return name
