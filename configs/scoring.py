"""The configuration keys of scoring."""

import re
from typing import Literal

from pydantic import Field, model_validator

from semtag.configs.fields import PlaceName, Positive, Section, check_placement, operational

EMBEDDING, CROSS_ENCODER = "embedding", "cross_encoder"


class Criterion(Section):
    """A scorer, with its weight in the sum."""

    by: str = Field(
        description="embedding: the cosine by scoring.model; cross_encoder: a model that reads text and tags together; "
        "or a function or class of your own, FILE.py:NAME or package.module:NAME."
    )
    weight: float = Field(1.0, description="Weight in the sum of scores; negative for what is to be avoided.")
    model: PlaceName | None = Field(None, description="Path, hub name or s3:// location of a cross_encoder.")

    @model_validator(mode="after")
    def _is_known(self) -> "Criterion":
        if self.by not in (EMBEDDING, CROSS_ENCODER) and not re.fullmatch(r"(.+\.py|[\w.]+):[^\W\d]\w*", self.by):
            raise ValueError(
                f"'{self.by}' is no scorer: name {EMBEDDING}, {CROSS_ENCODER}, FILE.py:NAME or package.module:NAME"
            )
        if (self.model is not None) != (self.by == CROSS_ENCODER):
            raise ValueError(f"the scorer '{self.by}' {'needs a model' if self.model is None else 'takes no model'}")
        if not self.weight:
            raise ValueError(f"the scorer '{self.by}' has the weight 0: leave it out")
        return self


class Scoring(Section):
    """What scores an answer against its text, and its actors."""

    scorers: list[Criterion] = Field(
        [Criterion(by="embedding")], min_length=1, description="Scorers; an answer's score is their weighted sum."
    )
    model: PlaceName = Field("thenlper/gte-large", description="Path, hub name or s3:// location of the embedder.")
    text_prefix: str = Field("", description="Prefix of a text, for models trained with prefixes.")
    tags_prefix: str = Field("", description="Prefix of a tag string, for models trained with prefixes.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Weights while embedding.")
    batch_size: Positive = operational(64, "Strings per forward pass.")
    actors: Positive = operational(1, "Fewest embedding actors; the run waits for this many.")
    max_actors: Positive | None = operational(None, "Most embedding actors; null: as many as actors.")
    gpus_per_actor: float = operational(0.0, "GPUs of each actor; a fraction shares one.", ge=0, le=1)
    accelerator_type: str | None = operational(None, "Ray's name of the GPU, such as L4; null: any.")

    @property
    def is_cosine(self) -> bool:
        """Return whether the score is the cosine of the embeddings, and nothing else."""
        return [one.by for one in self.scorers] == [EMBEDDING]

    @property
    def named(self) -> str:
        """Return the scorers for messages: the embedding model, or all with their weights."""
        names = [one.model or (self.model if one.by == EMBEDDING else one.by) for one in self.scorers]
        weights = zip(names, (one.weight for one in self.scorers), strict=True)
        return names[0] if len(names) == 1 else " + ".join(f"{weight:g} x {name}" for name, weight in weights)

    def as_cosine(self) -> "Scoring":
        """Return the same section with the cosine as the only scorer."""
        return self.model_copy(update={"scorers": [Criterion(by=EMBEDDING)]})

    @property
    def gpus(self) -> float:
        """Return the GPUs that an actor holds."""
        return self.gpus_per_actor

    @model_validator(mode="after")
    def _can_be_placed(self) -> "Scoring":
        check_placement(self, "scoring")
        return self
