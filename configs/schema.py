"""Every configuration key, typed, bounded and explained; those of data and training are in data.py and training.py. No
machine-learning imports."""

from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from semtag.configs.data import Data
from semtag.configs.fields import Fraction, PlaceName, Positive, RunRoot, Section, operational
from semtag.configs.rounds import Round, Rounds
from semtag.configs.training import Training


class Run(Section):
    """Where the run lives."""

    name: str = Field(description="Name of the run; its directory is <run.root>/<run.name>.")
    root: RunRoot = operational("runs", "Folder that holds all runs; also s3://BUCKET/PATH or gs://BUCKET/PATH.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of sampling, splitting, pair selection and training.")
    max_rejected: Fraction = operational(0.5, "Stop when more than this share of rows is rejected; duplicates aside.")

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        plain = name.replace("-", "").replace("_", "").replace(".", "")
        if not plain.isalnum() or not plain.isascii() or name.startswith("."):
            raise ValueError(
                f"'{name}' is not a run name: use letters a to z, digits, '.', '_' and '-'; run.root holds the folder"
            )
        return name


class Model(Section):
    """The model that becomes the tagger."""

    base: PlaceName = Field(description="Path, hub name, s3:// place or packaged name of the base model.")
    revision: str | None = Field(None, description="Branch, tag or commit of a base model on a hub; null: the newest.")
    chat_template: str | None = Field(None, description="Jinja file that replaces the model's chat template.")


SYSTEM = (
    "You are an expert chatbot tagging chunks of texts based on their content.\n"
    "Write a maximum of {max_tags} short labels representing the texts between square brackets and nothing else.\n"
    "Follow this format [tag1][tag2][tag3]"
)


class Example(Section):
    """A text with a good answer, shown to the model before the text that it tags."""

    text: str = Field(description="The text.")
    answer: str = Field(description="Its answer, such as [steam engine][governor][James Watt].")


class Prompt(Section):
    """What the model is asked."""

    system: str = Field(SYSTEM, description="System message; {max_tags} is the number; merged if unsupported.")
    user: str = Field("Write labels for the following text: {text}", description="User message; {text} is the text.")
    max_tags: int = Field(3, ge=1, le=50, description="Most tags that an answer may hold.")
    max_tag_words: int = Field(6, ge=1, le=50, description="Most words that a tag may hold.")
    examples: list[Example] | PlaceName = Field(
        [],
        description="Texts with their answers, or a JSON lines file of them. The first round's candidates are drawn "
        "after them; the tuned model is asked without.",
    )

    @field_validator("user")
    @classmethod
    def _names_the_text(cls, user: str) -> str:
        if "{text}" not in user:
            raise ValueError(f"must contain {{text}}, the place where the text goes (got {user!r})")
        return user


def check_placement(kind: "Sampling | Scoring", section: str) -> None:
    """Raises ValueError for a pool of actors that no cluster could hold."""
    if kind.max_actors is not None and kind.max_actors < kind.actors:
        raise ValueError(f"{section}.max_actors {kind.max_actors} is less than {section}.actors {kind.actors}")
    if kind.accelerator_type is not None and not kind.gpus_per_actor:
        raise ValueError(f"{section}.accelerator_type {kind.accelerator_type} needs {section}.gpus_per_actor")


class Sampling(Section):
    """How candidates are drawn."""

    engine: Literal["vllm", "replay"] = Field("vllm", description="Where candidates come from; replay reads them.")
    candidates: str = Field("completions", description="Column of the data that replay reads, a list for each text.")
    samples: int = Field(4, ge=1, le=256, description="Candidates per text (K).")
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature; above 0.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling mass.")
    top_k: int = Field(0, ge=0, description="Sample among the k likeliest tokens; 0 means all.")
    max_tokens: int = Field(48, ge=1, le=4096, description="Longest completion in tokens.")
    constrained: bool = Field(False, description="Draw candidates within the grammar of a valid answer.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Weights while sampling.")
    max_model_len: Positive | None = Field(None, description="Context to serve, in tokens; default the model's.")
    batch_size: Positive = operational(64, "Texts per call of an actor.")
    in_flight: Positive = operational(8, "Batches that an actor works on at once.")
    hang_minutes: float = operational(30.0, "End an engine that finishes no text for so long, and start another.", gt=0)
    actors: Positive = operational(1, "vLLM actors, at least; the run waits for so many.")
    max_actors: Positive | None = operational(None, "vLLM actors at most; null means as many as actors.")
    gpus_per_actor: float = operational(0.0, "GPUs of each actor; a fraction shares one.", ge=0)
    tensor_parallel: Positive = operational(1, "GPUs of one node that one model is spread over.")
    accelerator_type: str | None = operational(None, "Kind of GPU, in Ray's words, such as H100; null takes any.")
    gpu_memory: float = operational(0.85, "Share of GPU memory that vLLM takes.", gt=0, le=0.98)
    cpu_cache_gb: Positive = operational(1, "Key-value cache on a CPU, in GiB.")

    @property
    def gpus(self) -> float:
        """GPUs that one actor holds: its share of one, or one for each part of a model that is spread."""
        return self.tensor_parallel if self.gpus_per_actor and self.tensor_parallel > 1 else self.gpus_per_actor

    @model_validator(mode="after")
    def _can_be_placed(self) -> "Sampling":
        check_placement(self, "sampling")
        if not self.temperature:
            raise ValueError("sampling.temperature must be above 0: nothing differs among samples at temperature 0")
        if self.tensor_parallel > 1 and self.gpus_per_actor not in (1, self.tensor_parallel):
            raise ValueError(
                f"sampling.tensor_parallel {self.tensor_parallel} needs whole GPUs: set sampling.gpus_per_actor "
                f"to 1, not {self.gpus_per_actor:g}"
            )
        if self.gpus_per_actor > 1 and self.tensor_parallel == 1:
            raise ValueError(
                f"sampling.gpus_per_actor {self.gpus_per_actor:g} leaves GPUs idle: set sampling.tensor_parallel "
                "to as many"
            )
        return self


class Scoring(Section):
    """How an answer is scored against its text."""

    model: PlaceName = Field("thenlper/gte-large", description="Path, hub name or s3:// place of the embedder.")
    text_prefix: str = Field("", description="Put before a text, for models trained with prefixes.")
    tags_prefix: str = Field("", description="Put before a tag string, for models trained with prefixes.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Weights while embedding.")
    batch_size: Positive = operational(64, "Strings per forward pass.")
    actors: Positive = operational(1, "Embedding actors, at least; the run waits for so many.")
    max_actors: Positive | None = operational(None, "Embedding actors at most; null means as many as actors.")
    gpus_per_actor: float = operational(0.0, "GPUs of each actor; a fraction shares one.", ge=0, le=1)
    accelerator_type: str | None = operational(None, "Kind of GPU, in Ray's words, such as L4; null takes any.")

    @property
    def gpus(self) -> float:
        """GPUs that one actor holds."""
        return self.gpus_per_actor

    @model_validator(mode="after")
    def _can_be_placed(self) -> "Scoring":
        check_placement(self, "scoring")
        return self


class Pairs(Section):
    """How ranked lists become preferences."""

    strategy: Literal["first_two", "best_vs_worst", "best_vs_random", "mean_minus_2sd", "all_pairs", "margin_bins"] = (
        Field(
            "best_vs_worst",
            description="Which candidates of a text meet; mean_minus_2sd: the best and the one nearest to mean - 2 sd; "
            "margin_bins: all, and of each bin of score gaps equally many pairs stay, as many as texts in all.",
        )
    )
    margin_bin: float = Field(0.01, ge=0.005, le=2, description="Width of a bin of score gaps under margin_bins.")
    min_margin: float = Field(0.0, ge=0, le=2, description="Smallest score gap of a similarity pair; ties never pass.")
    max_per_text: Positive = Field(8, description="Most similarity pairs, and most format pairs, of one text.")
    max_tag_words: Positive | None = Field(
        None,
        description="A tag of more words makes an answer malformed for training; below prompt.max_tag_words it keeps "
        "the tagger clear of that limit. Null: only that limit holds.",
    )
    format_share: float = Field(0.2, ge=0, lt=1, description="Largest share of format pairs among all pairs.")
    list_least: int = Field(2, ge=2, le=256, description="Fewest distinct answers of a ranked list.")
    list_most: int = Field(256, ge=2, le=256, description="Most answers of a list: best, worst, and evenly between.")
    list_min_range: float = Field(0.0, ge=0, le=2, description="Smallest gap between a list's best and worst score.")


Arm = Literal[
    "base_plain", "base_vote", "rounds", "tuned_constrained", "tuned_vote",
    "first_words", "yake", "keybert", "keybert_mmr",
]  # fmt: skip


class Evaluation(Section):
    """Base against tuned, beside other ways to get tags, and what the tags are good for."""

    max_texts: Positive | None = Field(1000, description="Held-out texts to answer; all when null.")
    arms: list[Arm] = Field(list(get_args(Arm)), description="Other ways to get tags that the report compares.")
    votes: int = Field(5, ge=1, le=256, description="Samples that a vote counts.")
    second_model: PlaceName | None = Field(None, description="An embedding model that training never saw, as a judge.")
    reranker: PlaceName | None = Field(None, description="A cross-encoder that orders the best hits of search anew.")
    nli: PlaceName | None = Field(None, description="A model of natural language inference for classification.")
    keys_column: str = Field("keys", description="Column with people's keyphrases, a list for each text.")
    questions_column: str = Field("questions", description="Column with questions that the text answers, for search.")
    label_column: str = Field("label", description="Column with the text's class, for classification and topics.")
    labels: dict[str, str] = Field({}, description="What each class is called in words; its own name by default.")
    date_column: str = Field("date", description="Column with the text's date, for tags over time.")
    examples: int = Field(40, ge=0, le=200, description="Before/after examples in the report.")
    resamples: int = Field(10000, ge=100, le=1000000, description="Bootstrap resamples of each interval.")
    most_copied: float = Field(0.1, ge=0, le=1, description="Gate: most that the copied share of tag words may rise.")
    most_span: float = Field(1.0, ge=0, description="Gate: most words that the longest copied run may grow by.")
    most_length: float = Field(1.5, ge=1, description="Gate: most times as many words as the base model's answers.")
    most_entropy_lost: float = Field(1.0, ge=0, description="Gate: most bits that the entropy of all tags may fall.")
    strict: bool = operational(False, "End with exit status 2 when a gate fails; the report is written all the same.")

    @field_validator("labels", mode="before")
    @classmethod
    def _name_classes_by_text(cls, labels: Any) -> Any:
        return {str(name): words for name, words in labels.items()} if isinstance(labels, dict) else labels


class Cluster(Section):
    """Where Ray runs."""

    address: str = operational("local", "'local' starts Ray on this machine, on loopback; 'auto' joins a cluster.")
    cpus: Positive | None = operational(None, "Logical CPUs in local mode; default enough for all actors.")
    object_store_gb: float = operational(0.5, "Ray's shared memory in local mode, in GiB.", ge=0.1)
    price_per_node_hour: float | None = operational(None, "Price of a node's hour; progress shows the cost.", ge=0)


class Config(Section):
    """One run of Semtag."""

    run: Run
    data: Data
    model: Model
    prompt: Prompt = Field(Prompt())
    sampling: Sampling = Field(Sampling())
    scoring: Scoring = Field(Scoring())
    pairs: Pairs = Field(Pairs())
    training: Training = Field(Training())
    rounds: Rounds = Field(Rounds())
    evaluation: Evaluation = Field(Evaluation())
    cluster: Cluster = Field(Cluster())

    def of_round(self, number: int) -> "Config":
        """The config with the keys that differ in round `number`, counted from 1, put into their sections.

        Raises pydantic's ValidationError for unknown keys and bad values among them.
        """
        changed = [Round(), *self.rounds.each][: number + 1][-1]  # its own, or else the last one's
        values = self.model_dump()
        for section, keys in changed.model_dump().items():
            merge_into(values[section], keys)
        return Config.model_validate(values)

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if self.pairs.strategy != "all_pairs" and self.sampling.samples < 2:
            raise ValueError("sampling.samples must be at least 2: a pair needs two candidates")
        if self.pairs.list_most < self.pairs.list_least:
            raise ValueError(f"pairs.list_most {self.pairs.list_most} is less than list_least {self.pairs.list_least}")
        if self.training.launcher == "ray" and "://" in self.run.root:
            raise ValueError(
                f"training.launcher ray needs a run on a disk that all nodes share, not in run.root {self.run.root}; "
                "set training.launcher to accelerate or local"
            )
        if self.training.patience and not self.training.held_out:
            raise ValueError("training.patience needs texts to measure on: set training.held_out")
        return self


def merge_into(values: dict[str, Any], keys: dict[str, Any]) -> None:
    """Set nested keys, leaving those that `keys` does not name."""
    for name, value in keys.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            merge_into(values[name], value)
        else:
            values[name] = value
