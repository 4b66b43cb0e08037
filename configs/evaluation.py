"""The configuration keys of the evaluation."""

from collections import Counter
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from semtag.configs.data import Data
from semtag.configs.fields import PlaceName, Positive, Section, operational

Arm = Literal[
    "base_best", "base_vote", "rounds", "tuned_constrained", "tuned_vote",
    "first_words", "yake", "keybert", "keybert_mmr",
]  # fmt: skip


class Evaluation(Section):
    """The comparison of base, tuned and other arms, by their tags and by tasks that use the tags."""

    data: Data | None = Field(
        None,
        description="Other texts to evaluate on, by the keys of `data`; null: the held-out texts. Texts that the run "
        "trains on are left out.",
    )
    max_texts: Positive | None = Field(1000, description="Most held-out texts to answer; null: all.")
    arms: list[Arm] = Field(list(get_args(Arm)), description="Arms that the report adds to those always there.")
    taggers: list[PlaceName] = Field([], description="Other runs whose taggers answer too, such as controls.")
    max_tokens: Positive | None = Field(None, description="Most tokens of an answer; null: sampling.max_tokens.")
    votes: int = Field(5, ge=1, le=256, description="Samples of a text that a vote counts.")
    second_model: PlaceName | None = Field(
        None, description="Embedding model that training never saw: the judge of uses; another one than scoring.model."
    )
    second_text_prefix: str = Field("", description="Prefix of a text, for a second model trained with prefixes.")
    second_query_prefix: str = Field("", description="Prefix of a query, for a second model trained with prefixes.")
    reranker: PlaceName | None = Field(None, description="Cross-encoder that ranks the best search hits again.")
    nli: PlaceName | None = Field(None, description="Natural language inference model for classification.")
    keys_column: str = Field("keys", description="Column with people's keyphrases, a list for each text.")
    questions_column: str = Field("questions", description="Column with questions that the text answers, for search.")
    label_column: str = Field("label", description="Column with the text's class, for classification and topics.")
    labels: dict[str, str] = Field({}, description="Words for a class; by default the class's own name.")
    examples: int = Field(40, ge=0, le=200, description="Before/after examples in the report.")
    resamples: int = Field(10000, ge=10000, le=1000000, description="Patterns of signs that each test draws.")
    strict: bool = operational(False, "Exit with status 2 when a gate fails, after the report is written.")

    @field_validator("labels", mode="before")
    @classmethod
    def _name_classes_by_text(cls, labels: Any) -> Any:
        return {str(name): words for name, words in labels.items()} if isinstance(labels, dict) else labels

    @field_validator("labels")
    @classmethod
    def _tell_classes_apart(cls, labels: dict[str, str]) -> dict[str, str]:
        for words, count in Counter(labels.values()).items():
            if count > 1:
                raise ValueError(f"{count} classes have the same description: {words}")
        return labels
