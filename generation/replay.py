"""Candidates from a column of the data in place of an engine: from an API, or from an older run."""

import json
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from cluster.session import Tally
from configs.schema import Config
from generation.prompts import build_messages, load_tokenizer, prompt_ids, takes_system_role
from generation.records import SAMPLED, candidate_row, sampled_counts

Record = dict[str, Any]


class Replay:
    """Ray Data actor class with the Sampler's inputs and outputs, but for the engine.

    The column `sampling.candidates` holds a list of completions for each text: strings, or objects with `completion`
    and, where known, `finish_reason`, `num_tokens`, `token_ids` and `logprob`, as the candidates of a ranked list have
    them.
    """

    def __init__(self, config: Config, model: str, tally: Tally) -> None:
        self.config, self.tokenizer, self.tally = config, load_tokenizer(model, config.model), tally
        self.system_role = takes_system_role(self.tokenizer)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._replay(row) for row in batch.to_pylist()]
        self.tally.add(sampled_counts(rows), at_once=True)
        return pa.Table.from_pylist(rows, SAMPLED)

    def _replay(self, row: Record) -> Record:
        meta = json.loads(row["meta"])
        given = meta.pop(self.config.sampling.candidates, None)
        messages = build_messages(row["text"], self.config.prompt, self.system_role)
        ids = prompt_ids(self.tokenizer, messages)
        row |= {
            "meta": json.dumps(meta, ensure_ascii=True),
            "prompt": messages,
            "prompt_ids": ids,
            "sampled_prompt_ids": ids,
            "candidates": [],
        }
        try:
            return row | {"candidates": read_candidates(given, self.config)}
        except ValueError as error:
            return row | {"reason": "no_candidates", "detail": str(error)}


class Given(BaseModel):
    """A candidate as the data has it; what else it holds is made anew."""

    completion: str
    sample: int = 0
    finish_reason: str | None = None
    num_tokens: int | None = None
    token_ids: list[int] | None = None
    logprob: float | None = None


GIVEN = TypeAdapter(Annotated[list[str | Given], Field(min_length=1)])


def read_candidates(given: Any, config: Config) -> list[Record]:
    """Candidates of schema CANDIDATE, numbered in the order of their `sample` where they have one.

    Raises ValueError for what is no list of completions.
    """
    try:
        found = [Given(completion=one) if isinstance(one, str) else one for one in GIVEN.validate_python(given)]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"column '{config.sampling.candidates}': {first['msg']} at {first['loc']}") from None
    return [
        candidate_row(config.prompt, number, **one.model_dump(exclude={"sample"}))
        for number, one in enumerate(sorted(found, key=lambda one: one.sample))
    ]
