"""The configuration keys of rounds. A round is candidates, scores, pairs and training, once."""

from typing import Any, Literal

from pydantic import Field

from semtag.configs.fields import Positive, Section


class Round(Section):
    """The keys of one round that differ from the sections of the config."""

    sampling: dict[str, Any] = Field({}, description="Keys of sampling that differ in this round.")
    training: dict[str, Any] = Field({}, description="Keys of training that differ in this round.")


class Rounds(Section):
    """The number of rounds, their texts, and when to stop.

    A later round starts from the merged weights of the round before.
    """

    count: int = Field(1, ge=1, le=99, description="Most rounds; least_gain can stop them earlier.")
    each: list[Round] = Field(
        [], description="Keys that differ, an entry for each round; later rounds use the last entry."
    )
    texts: Literal["split", "reuse"] = Field(
        "split", description="split deals the train texts to the rounds; reuse gives each round all train texts."
    )
    validation: float = Field(0.1, ge=0, le=0.5, description="Share of train texts kept to measure a round's gain.")
    max_validation: Positive = Field(300, description="Most validation texts.")
    least_gain: float = Field(
        0.01, ge=0, le=2, description="Stop when the 95 % interval of a round's gain in mean score lies below this."
    )
