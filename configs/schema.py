"""All configuration keys, typed, bounded and explained.

data.py, evaluation.py, rounds.py, scoring.py and training.py hold the keys of those sections. No machine learning is
imported here.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from semtag.configs.data import Data
from semtag.configs.evaluation import Evaluation
from semtag.configs.fields import (
    Fraction,
    PlaceName,
    Positive,
    RunRoot,
    Section,
    ServerUrl,
    check_placement,
    operational,
)
from semtag.configs.rounds import Round, Rounds
from semtag.configs.scoring import Scoring
from semtag.configs.training import Training


class Run(Section):
    """The run's name, folder and seed, and its limit of rejected rows."""

    name: str = Field(description="Name of the run; its directory is <run.root>/<run.name>.")
    root: RunRoot = operational("runs", "Folder that holds all runs; also s3://BUCKET/PATH or gs://BUCKET/PATH.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of sampling, splitting, pair selection and training.")
    max_rejected: Fraction = operational(0.5, "Stop above this share of rejected rows; duplicates do not count.")

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        plain = name.replace("-", "").replace("_", "").replace(".", "")
        if not plain.isalnum() or not plain.isascii() or name.startswith("."):
            raise ValueError(
                f"'{name}' is not a run name: use letters a to z, digits, '.', '_' and '-'; run.root sets the folder"
            )
        return name


TemplateVariable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


class Model(Section):
    """The model that becomes the tagger."""

    base: PlaceName = Field(description="Path, hub name, s3:// location or packaged name of the base model.")
    revision: str | None = Field(None, description="Branch, tag or commit of a base model on a hub; null: the newest.")
    chat_template: str | None = Field(None, description="Jinja file that replaces the model's chat template.")
    chat_template_kwargs: dict[TemplateVariable, bool | int | float | str] = Field(
        {}, description="Variables of the chat template, such as {enable_thinking: false}; the tagger keeps them."
    )


SYSTEM = (
    "You are an expert chatbot tagging chunks of texts based on their content.\n"
    "Write a maximum of {max_tags} short labels representing the texts between square brackets and nothing else.\n"
    "Follow this format [tag1][tag2][tag3]"
)


class Example(Section):
    """A text with its answer, shown to the model before the text to tag."""

    text: str = Field(description="The text.")
    answer: str = Field(description="The answer, such as [steam engine][governor][James Watt].")


class Prompt(Section):
    """The prompt that asks the model for tags, and the limits of a valid answer."""

    system: str = Field(
        SYSTEM,
        description="System message; {max_tags} becomes the number. A chat template without a system role gets it in "
        "the user message.",
    )
    user: str = Field("Write labels for the following text: {text}", description="User message; {text} is the text.")
    max_tags: int = Field(3, ge=1, le=50, description="Most tags that an answer may hold.")
    max_tag_words: int = Field(6, ge=1, le=50, description="Most words that a tag may hold.")
    examples: list[Example] | PlaceName = Field(
        [],
        description="Texts with their answers, or a JSON Lines file of such rows. The base model sees the examples "
        "when round 1 draws candidates; the tuned model does not.",
    )

    @field_validator("user")
    @classmethod
    def _names_the_text(cls, user: str) -> str:
        if "{text}" not in user:
            raise ValueError(f"must contain {{text}}, the place where the text goes (got {user!r})")
        return user


class Budget(Section):
    """What a command may buy from a server. The same command again may buy as much again."""

    tokens: Positive | None = operational(None, "Most tokens, read and written; null: no limit.")
    cost: float | None = operational(None, "Most money, by the two prices; null: no limit.", gt=0)
    price_read: float = operational(0.0, "Price of a million tokens of prompts.", ge=0)
    price_written: float = operational(0.0, "Price of a million tokens of answers.", ge=0)

    def cost_of(self, read: int, written: int) -> float:
        """Return the price of tokens read and written."""
        return (read * self.price_read + written * self.price_written) / 1e6

    @model_validator(mode="after")
    def _has_prices(self) -> "Budget":
        if self.cost is not None and not (self.price_read or self.price_written):
            raise ValueError("sampling.budget.cost needs sampling.budget.price_read and price_written")
        return self


Engine = Literal["vllm", "openai", "replay"]


class Sampling(Section):
    """The engine that draws candidates, and its actors."""

    engine: Engine = Field(
        "vllm",
        description="vllm samples candidates from the model; openai asks a server with OpenAI's API; replay reads "
        "candidates from the data.",
    )
    endpoint: ServerUrl | None = operational(
        None, "Server that openai asks, such as http://127.0.0.1:8000/v1; its key comes from OPENAI_API_KEY."
    )
    served_model: str | None = Field(None, description="The server's name of its model; for openai.")
    requests: Positive = operational(64, "Most requests that an actor sends to the server at once.")
    budget: Budget = Field(Budget(), description="What a command may buy from the server; for openai.")
    candidates: str = Field("completions", description="Column that replay reads: a list of completions.")
    samples: int = Field(4, ge=1, le=256, description="Candidates per text (K).")
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature; above 0.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling mass.")
    top_k: int = Field(0, ge=0, description="Sample among the k likeliest tokens; 0 means all.")
    max_tokens: int = Field(48, ge=1, le=4096, description="Longest completion in tokens.")
    constrained: bool = Field(False, description="Draw candidates within the grammar of a valid answer.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Weights while sampling.")
    max_model_len: Positive | None = Field(None, description="Context length in tokens; null: the model's.")
    batch_size: Positive = operational(64, "Texts per call of an actor.")
    in_flight: Positive = operational(8, "Batches that an actor works on at once.")
    hang_minutes: float = operational(30.0, "Replace an engine that finishes no text for this many minutes.", gt=0)
    actors: Positive = operational(1, "Fewest vLLM actors; the run waits for this many.")
    max_actors: Positive | None = operational(None, "Most vLLM actors; null: as many as actors.")
    gpus_per_actor: float = operational(0.0, "GPUs of each actor; a fraction shares one.", ge=0)
    tensor_parallel: Positive = operational(1, "GPUs of one node over which one engine spreads its model.")
    accelerator_type: str | None = operational(None, "Ray's name of the GPU, such as H100; null: any.")
    gpu_memory: float = operational(0.85, "Share of GPU memory that vLLM takes.", gt=0, le=0.98)
    cpu_cache_gb: Positive = operational(1, "Key-value cache on a CPU, in GiB.")

    @property
    def gpus(self) -> float:
        """Return the GPUs that an actor holds: a share of one GPU, or `tensor_parallel` GPUs for a spread model."""
        return self.tensor_parallel if self.gpus_per_actor and self.tensor_parallel > 1 else self.gpus_per_actor

    @model_validator(mode="after")
    def _can_be_placed(self) -> "Sampling":
        check_placement(self, "sampling")
        if self.engine == "openai" and not (self.endpoint and self.served_model):
            raise ValueError("sampling.engine openai needs sampling.endpoint and sampling.served_model")
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
                "to the same number"
            )
        return self


class Pairs(Section):
    """The rules by which ranked lists become pairs and lists."""

    strategy: Literal["first_two", "best_vs_worst", "best_vs_random", "mean_minus_2sd", "all_pairs", "margin_bins"] = (
        Field(
            "best_vs_worst",
            description="Candidates of a text that are compared. mean_minus_2sd: the best and the candidate nearest to "
            "mean - 2 sd. margin_bins: all, then the same cap on each bin of score gaps, so that at most as many pairs "
            "as texts stay.",
        )
    )
    margin_bin: float = Field(0.01, ge=0.005, le=2, description="Width of a bin of score gaps under margin_bins.")
    min_margin: float = Field(0.0, ge=0, le=2, description="Smallest score gap of a similarity pair; ties never pass.")
    max_per_text: Positive = Field(8, description="Most similarity pairs, and most format pairs, of one text.")
    max_tag_words: Positive | None = Field(
        None,
        description="A tag of more words makes an answer malformed for training. Below prompt.max_tag_words, this "
        "limit keeps the tagger's tags short enough. Null: prompt.max_tag_words alone.",
    )
    word_price: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Price of each word of an answer beyond 2.5 words a tag, taken off its score before answers are "
        "compared. Cosine grows with every word of the text; 0.03 closes most of that. See `semtag audit-scorer`.",
    )
    format_share: float = Field(0.2, ge=0, lt=1, description="Largest share of format pairs among all pairs.")
    list_least: int = Field(2, ge=2, le=256, description="Fewest distinct answers of a list.")
    list_most: int = Field(256, ge=2, le=256, description="Most answers of a list: best, worst, even steps between.")
    list_min_range: float = Field(0.0, ge=0, le=2, description="Smallest gap between a list's best and worst score.")


class Cluster(Section):
    """The Ray cluster of the run."""

    address: str = operational("local", "'local' starts Ray on this machine, on loopback; 'auto' joins a cluster.")
    cpus: Positive | None = operational(None, "Logical CPUs in local mode; null: enough for all actors.")
    object_store_gb: float = operational(0.5, "Ray's object store in local mode, in GiB.", ge=0.1)
    price_per_node_hour: float | None = operational(None, "Price of a node for an hour; progress shows the cost.", ge=0)


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
        """Return the config of round `number`, counted from 1, with the round's keys put into their sections.

        Example: `rounds.each` of `[{training: {beta: 0.5}}]` sets `training.beta` to 0.5 in every round. Raises
        pydantic's ValidationError for an unknown key or a bad value of the round.
        """
        changed = [Round(), *self.rounds.each][: number + 1][-1]  # the round's entry, or else the last entry
        values = self.model_dump()
        for section, keys in changed.model_dump().items():
            merge_into(values[section], keys)
        return Config.model_validate(values)

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if self.sampling.samples < 2:
            raise ValueError("sampling.samples must be at least 2: a pair needs two candidates")
        if self.pairs.list_most < self.pairs.list_least:
            raise ValueError(
                f"pairs.list_most {self.pairs.list_most} is less than list_least {self.pairs.list_least}: "
                "raise pairs.list_most"
            )
        if self.data.max_words and self.sampling.engine == "replay":
            raise ValueError(
                "data.max_words splits texts, and the candidates to replay are of whole texts: set it to null"
            )
        if self.evaluation.second_model == self.scoring.model:
            raise ValueError(
                f"evaluation.second_model {self.scoring.model} is the model that scores, so it cannot judge what it "
                "rewarded: name another model, or null"
            )
        if self.training.launcher == "ray" and "://" in self.run.root:
            raise ValueError(
                f"training.launcher ray needs a run on a disk that all nodes share, not in run.root {self.run.root}; "
                "set training.launcher to accelerate or local"
            )
        if self.training.patience and not self.training.held_out:
            raise ValueError(
                f"training.patience {self.training.patience} needs texts to measure the loss on: set training.held_out"
            )
        return self


def merge_into(values: dict[str, Any], keys: dict[str, Any]) -> None:
    """Set nested `keys` in `values`, and keep all other keys.

    Example: `{"a": {"x": 1, "y": 2}}` with the keys `{"a": {"x": 3}}` becomes `{"a": {"x": 3, "y": 2}}`.
    """
    for name, value in keys.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            merge_into(values[name], value)
        else:
            values[name] = value
