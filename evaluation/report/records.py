"""The records of report.json. `Report.model_json_schema()` describes every key."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from semtag.evaluation.rows import Input

SCHEMA_VERSION: Literal[9] = 9  # of report.json

Outcome = Literal["passed", "failed", "undecided"]
Finding = Literal["better", "worse", "unclear"]


class Record(BaseModel):
    """A part of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Estimate(Record):
    """A mean and its 95 % interval."""

    value: float | None = Field(description="The mean; null where the measure is defined for no unit.")
    low: float | None = Field(description="Lower end; null where there are too few texts for an interval.")
    high: float | None = Field(description="Upper end, as `low`.")
    n: int = Field(description="Texts, or questions in search, that the mean is over.")


class TagCount(Record):
    """A tag and the number of texts that an arm gives it."""

    tag: str = Field(description="The tag, case-folded.")
    texts: int = Field(description="Texts with this tag.")


class ArmFigures(Record):
    """What an arm's tags are like. Extractors and people are cut to the tagger's number of words, text by text."""

    name: str = Field(description="The arm, as in answers.parquet.")
    means: str = Field(description="The arm in words.")
    cost: int = Field(description="Answers that a language model writes for each text.")
    cut: bool = Field(description="Whether the lists are cut to the tagger's number of words before they are measured.")
    missing: int = Field(
        description="Texts that the arm could not answer. They count as malformed, and people's have no value."
    )
    measures: dict[str, Estimate] = Field(description="Measures of the delivered tags, over all texts.")
    agreement: dict[str, Estimate] = Field(description="Agreement of whole lists with people's keyphrases, if any.")
    defects: dict[str, int] = Field(description="Malformed answers by their reason.")
    tags: int = Field(description="Tags of all answers together.")
    distinct: int = Field(description="Distinct tags among these.")
    frequent: list[TagCount] = Field(description="The most frequent tags.")


class Contrast(Record):
    """A paired difference, first minus second, that was named before anything was measured."""

    family: str = Field(description="What the contrast is for, such as `primary`.")
    first: str = Field(description="The arm that is compared; `text` for none.")
    first_input: Input = Field(description="What a task reads of it.")
    second: str = Field(description="The arm that it is compared with; `text` for none.")
    second_input: Input = Field(description="What a task reads of it.")
    task: str = Field(description="What the measure is of: tags, agreement, search or classification.")
    method: str = Field(description="How the task is done; empty where there is one way.")
    measure: str = Field(description="The measure.")
    difference: Estimate = Field(description="First minus second over the units that both have.")
    p: float = Field(description="Two-sided p of a paired permutation test.")
    p_holm: float = Field(description="That p corrected for all contrasts of the report.")
    finding: Finding = Field(description="What both the interval and the corrected p allow to say of the first.")


class GateResult(Record):
    """Whether the tagger games the score in one way, compared with the untrained model."""

    name: str = Field(description="The gate.")
    measure: str = Field(description="The measure that it reads.")
    bound: str = Field(description="What must hold, in words.")
    limit: float = Field(description="The bound as a number, in the unit of the difference.")
    difference: Estimate = Field(description="Tagger minus untrained model; for words, minus 1.5 times of them.")
    outcome: Outcome = Field(description="Passed or failed where the whole interval lies on one side of the bound.")


class UseFigures(Record):
    """A way to do a task, and how well it went."""

    task: str = Field(description="search or classification.")
    arm: str = Field(description="Whose tags are read; `text` for none.")
    input: Input = Field(description="What is read.")
    method: str = Field(description="How.")
    measures: dict[str, Estimate] = Field(description="The task's measures.")


class Confusion(Record):
    """Texts of one class that were told to be of another."""

    true: str = Field(description="Their class.")
    told: str = Field(description="The class that they were told to be of.")
    texts: int = Field(description="How many.")


class ClassFigures(Record):
    """What was classified, and the most frequent confusions of the tagger's tags."""

    texts: int = Field(description="Texts with a class.")
    classes: list[str] = Field(description="The classes with at least five texts.")
    most_frequent: float = Field(description="Accuracy of always telling the most frequent class.")
    confusions: list[Confusion] = Field(description="The ten most frequent confusions by the tagger's tags alone.")


class TopicFigures(Record):
    """Topics found by one way to read the texts. They are counts of these very texts, so they have no interval."""

    arm: str = Field(description="Whose tags are read; `text` for none.")
    input: Input = Field(description="What is read.")
    texts: int = Field(description="Texts that were read.")
    topics: float = Field(description="Topics, as a mean over seeds.")
    outliers: float = Field(description="Share of texts without a topic, as a mean over seeds.")
    ami: float | None = Field(description="Adjusted mutual information with the labels, outliers as one topic more.")
    ami_inliers: float | None = Field(description="The same without outliers.")


class Point(Record):
    """A text on the map."""

    x: float
    y: float
    topic: int = Field(description="The topic's number; -1 for none.")
    text: str = Field(description="The text's beginning.")
    tags: list[str] = Field(description="The tags of the map's arm.")
    label: str | None = Field(description="The text's class or title.")


class TopicName(Record):
    """A topic of the map."""

    id: int
    name: str = Field(description="Its most typical terms.")
    size: int = Field(description="Its texts.")


class TopicMap(Record):
    """Texts in a plane."""

    arm: str = Field(description="Whose tags are read beside the texts.")
    points: list[Point]
    topics: list[TopicName]


class Topics(Record):
    """Topics, and a map of them."""

    seeds: int = Field(description="Clusterings that the figures are means of.")
    labels: str = Field(description="What the topics are compared with: labels or titles; empty where there is none.")
    rows: list[TopicFigures]
    map: TopicMap | None


class ShownAnswer(Record):
    """An answer as the page shows it."""

    arm: str
    completion: str
    format: str
    reason: str | None
    score: float | None
    tags: list[str]


class Example(Record):
    """A text with all answers, those of `base` and `tuned` first."""

    text: str
    gain: float = Field(description="Similarity of the tagger's tags minus that of the untrained model's.")
    answers: list[ShownAnswer]


class Row(Record):
    """A text with the tags of `base` and `tuned`, for the page's search."""

    text: str = Field(description="The first 200 characters.")
    base: list[str]
    tuned: list[str]


class Judge(Record):
    """The embedding model of all uses, of finding texts and of neighbours."""

    model: str
    trained_for: bool = Field(description="Whether it is the model that the tagger was trained to please.")


class ValidationLine(Record):
    """What a round's validation found."""

    texts: int
    well_formed: float
    mean_score: float
    gain: Estimate


class RoundLine(Record):
    """A round: what it learnt from, and what its validation found."""

    round: int
    loss: str
    beta: float
    learns_from: str
    steps: int
    references: dict[str, int]
    validation: ValidationLine | None


class Margins(Record):
    """Histogram of the score gaps of the pairs that the delivered round learnt from."""

    edges: list[float]
    counts: list[int]
    format: int = Field(description="Format pairs, which have no gap.")


class Report(Record):
    """report.json: all that report.html shows."""

    schema_version: Literal[9] = Field(SCHEMA_VERSION, description="Version of this schema.")
    run: str = Field(description="The run's name.")
    held_out_texts: int = Field(description="Texts that every arm was asked about.")
    resampled: Literal["texts", "articles"] = Field(description="What the intervals and tests resample.")
    judge: Judge
    arms: list[ArmFigures]
    contrasts: list[Contrast]
    gates: list[GateResult]
    uses: list[UseFigures] = Field(description="Search and classification, where the texts have what it takes.")
    classification: ClassFigures | None
    topics: Topics | None
    examples: list[Example] = Field(description="Spread evenly from the largest loss in similarity to the gain.")
    rows: list[Row] = Field(description="All texts.")
    similarities: dict[str, list[float]] = Field(description="Similarity of each text's tags, for base and tuned.")
    margins: Margins
    curve: list[dict[str, float | None]] = Field(description="What training logged, of the delivered round.")
    rounds: list[RoundLine]
    ledger: dict[str, Any] = Field(description="The run's ledger.")
    weights: dict[str, dict[str, str]] = Field(description="Step -> key -> hash of the weights that the step read.")
    config: dict[str, Any] = Field(description="The run's config.")
    versions: dict[str, str] = Field(description="Library -> version.")
