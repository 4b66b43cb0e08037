"""The configuration keys of rounds: candidates, scores, pairs and training again, each time from a better model."""

from typing import Any, Literal

from pydantic import Field

from semtag.configs.fields import Positive, Section


class Round(Section):
    """What differs in one round from the sections of the config."""

    sampling: dict[str, Any] = Field({}, description="Keys of sampling that differ in this round.")
    training: dict[str, Any] = Field({}, description="Keys of training that differ in this round.")


class Rounds(Section):
    """How often the model samples, is scored and is trained; each round starts from the merged weights of the last."""

    count: int = Field(1, ge=1, le=99, description="Rounds at most.")
    each: list[Round] = Field(
        [], description="The keys that differ, first round first; later rounds have the last one's."
    )
    texts: Literal["split", "reuse"] = Field("split", description="Deal the train texts to the rounds, or reuse all.")
    validation: float = Field(0.1, ge=0, le=0.5, description="Share of the train texts on which gains are measured.")
    max_validation: Positive = Field(300, description="Texts that measure gains at most.")
    least_gain: float = Field(
        0.01, ge=0, le=2, description="Stop when the 95 % interval of a round's gain in mean score lies below this."
    )
