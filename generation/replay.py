"""Replay: candidates of an API or of an older run, from a column of the data, in place of an engine."""

import json
from dataclasses import replace
from operator import attrgetter
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from semtag.cluster.progress import Adds
from semtag.configs.schema import Config
from semtag.generation.prompts import Chat, load_tokenizer
from semtag.generation.reasons import RejectReason
from semtag.generation.records import Candidate, SampledText, from_table, read_candidate, sampled_counts, to_table

LONGEST = 2**20  # characters; a longer completion cannot be read


class Replay:
    """Ray Data actor class with the inputs and outputs of `Sampler`, but without an engine.

    The column `sampling.candidates` holds a list of completions for each text. A completion is a string, or an object
    with `completion` and, where known, `finish_reason`, `num_tokens`, `token_ids` and `logprob`. The candidates of a
    ranked list have the same fields.
    """

    def __init__(self, config: Config, model: str, tally: Adds) -> None:
        self.config, self.tally = config, tally
        self.chat = Chat(load_tokenizer(model, config.model), config.prompt)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        texts = [self._replay(text) for text in from_table(batch)]
        self.tally.add(sampled_counts(texts), at_once=True)
        return to_table(texts)

    def _replay(self, text: SampledText) -> SampledText:
        meta = json.loads(text.meta)
        given = meta.pop(self.config.sampling.candidates, None)
        text = replace(text, meta=json.dumps(meta, ensure_ascii=True))
        try:
            messages = self.chat.messages(text.text)
            ids = self.chat.ids(messages)
        except Exception as error:  # templates and tokenizers raise errors of any kind
            return text.rejected(RejectReason.REFUSED_BY_TEMPLATE, f"{type(error).__name__}: {error}")
        text = replace(text, prompt=messages, prompt_ids=ids, sampled_prompt_ids=ids)
        try:
            return replace(text, candidates=known_ids(self.chat.tokenizer, read_candidates(given, self.config)))
        except ValueError as error:
            return text.rejected(RejectReason.NO_CANDIDATES, str(error))


Whole = Annotated[int, Field(ge=0, lt=2**31)]  # the range of an int32 column


class ReplayedCandidate(BaseModel):
    """The fields of a candidate that are taken from the data. All other fields are computed again."""

    completion: Annotated[str, Field(max_length=LONGEST)]
    sample: int = 0
    finish_reason: str | None = None
    num_tokens: Whole | None = None
    token_ids: list[Whole] | None = None
    logprob: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, given: Any) -> Any:
        return {"completion": given} if isinstance(given, str) else given

    @field_validator("completion", "finish_reason")
    @classmethod
    def _is_utf8(cls, text: str | None) -> str | None:
        if text is not None:
            text.encode()  # raises ValueError for a lone surrogate
        return text


def read_candidates(given: Any, config: Config) -> list[Candidate]:
    """Read candidates and number them from 0, in the order of `sample`, else of the list.

    A candidate that cannot be read becomes an empty completion after the candidate before it. Raises ValueError for
    a value that is not a list, or for a list without a candidate that can be read.
    """
    where = f"column '{config.sampling.candidates}'"
    if not isinstance(given, list) or not given:
        raise ValueError(f"{where}: the value is not a list of completions, or the list is empty")
    # Read each candidate; give an unreadable candidate the place of the candidate before it.
    found, wrong = list[ReplayedCandidate](), list[str]()
    for place, one in enumerate(given):
        try:
            found.append(ReplayedCandidate.model_validate(one))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            wrong.append(f"{first['msg']} at {(place, *first['loc'])}")
            found.append(ReplayedCandidate(completion="", sample=found[-1].sample if found else 0))
    if len(wrong) == len(given):
        raise ValueError(f"{where}: {wrong[0]}")
    # Parse the completions, in the order of `sample`.
    return [
        read_candidate(config.prompt, number, **one.model_dump(exclude={"sample"}))
        for number, one in enumerate(sorted(found, key=attrgetter("sample")))
    ]


def known_ids(tokenizer: Any, candidates: list[Candidate]) -> list[Candidate]:
    """Set tokens and log-probability to null where the tokens do not decode to the completion.

    Such tokens are of another tokenizer. All later steps trust the tokens that are left.
    """
    size, given = len(tokenizer), [one.token_ids or [] for one in candidates]
    own = [ids if max(ids, default=0) < size else [] for ids in given]
    said = tokenizer.batch_decode(own, skip_special_tokens=True)
    return [
        one
        if one.token_ids is None or (ids and text.strip() == one.completion.strip())
        else replace(one, token_ids=None, logprob=None)
        for one, ids, text in zip(candidates, own, said, strict=True)
    ]
