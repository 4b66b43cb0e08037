"""The paths of a run's files, and the names of its steps. No other module builds a path below a run."""

from pathlib import Path
from typing import NamedTuple

from semtag.store.locations import Place


class Step(NamedTuple):
    """A stage of a run. `round` counts from 1 for a stage that each round repeats, and is 0 for other stages."""

    stage: str
    round: int = 0

    @property
    def name(self) -> str:
        """Return the step's name in the manifest, the ledger and the logs, such as `rank-2`."""
        return f"{self.stage}-{self.round}" if self.round else self.stage

    @classmethod
    def of(cls, name: str) -> "Step":
        """Return the step of a name: `rank-2` becomes `Step("rank", 2)`."""
        stage, _, number = name.partition("-")
        return cls(stage, int(number or 0))


class RoundLayout:
    """The files of one round. `local` is the folder for files that only this machine needs."""

    def __init__(self, folder: Place, local: Path) -> None:
        self.rejects = folder / "rejects"  # texts without candidates, with the reason
        self.ranked = folder / "ranked"  # a row for each text, candidates in order of score
        self.pairs = folder / "pairs"
        self.lists = folder / "lists"
        self.adapter = folder / "model"  # with its card and curve.json
        self.merged = folder / "merged"  # the adapter folded into the weights that the round started from
        self.validation = folder / "validation"  # answers to the texts that measure gains
        # Left by killed attempts at ranking: sampled rows, and the ids of committed rows.
        self.sampled = folder / ".rank.unfinished" / "rows"
        self.sampled_ids = folder / ".rank.unfinished" / "ids"
        # Left by a fork: candidates of another run to score, and the hash of the settings of their sampling.
        self.given = folder / ".rank.unfinished" / "given"
        self.given_identity = folder / ".rank.unfinished" / "given.txt"
        # Left by killed attempts at training.
        self.training = local / ".train.unfinished"
        self.checkpoints = local / "checkpoints"
        self.tensorboard = local / "tensorboard"


class RunLayout:
    """The files of a run. `local` is the folder for files that only this machine needs."""

    def __init__(self, folder: Place, local: Path) -> None:
        self.folder, self.local = folder, local
        self.config = folder / "config.yaml"
        self.manifest = folder / "manifest.json"
        self.ledger = folder / "ledger.json"
        self.texts = folder / "texts"
        self.held_out = self.texts / "held_out.parquet"
        self.validation_texts = self.texts / "validation.parquet"
        self.source_state = self.texts / "source.json"  # state of the data files when they were read
        self.rejects = folder / "rejects"  # rows without a usable text
        self.evaluation = folder / "evaluation"
        self.answers = self.evaluation / "answers.parquet"
        self.rows = self.evaluation / "rows.parquet"  # every value that was measured
        self.report = self.evaluation / "report.json"
        self.page = self.evaluation / "report.html"
        self.judgement = folder / "judgement"
        self.logs = local / "logs"

    def round(self, number: int) -> RoundLayout:
        """Return the files of round `number`, counted from 1."""
        return RoundLayout(self.folder / f"round-{number}", self.local / f"round-{number}")

    def train_texts(self, number: int, reuse: bool) -> Place:
        """Return the file of texts that round `number` learns from. With `reuse`, all rounds share one file."""
        return self.texts / f"train-{1 if reuse else number}.parquet"

    def log(self, name: str) -> Path:
        """Return the log of a step, which holds the output of libraries."""
        return self.logs / f"{name}.log"

    def written_by(self, step: Step) -> list[Place]:
        """Return the folders that a step writes."""
        layout = self.round(step.round)
        folders: dict[str, list[Place]] = {
            "texts": [self.texts, self.rejects],
            "rank": [layout.ranked, layout.rejects],
            "pairs": [layout.pairs, layout.lists],
            "train": [layout.adapter, layout.merged],
            "validate": [layout.validation, *([self.round(0).validation] if step.round == 1 else [])],
            "evaluate": [self.evaluation],
        }
        return folders[step.stage]

    def unfinished(self, step: Step) -> list[Place]:
        """Return the folders that killed attempts at a step may leave."""
        layout = self.round(step.round)
        folders: dict[str, list[Place]] = {"rank": [layout.sampled.parent], "train": [layout.training]}
        return folders.get(step.stage, [])
