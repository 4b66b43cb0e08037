"""A tagger in Python, for a text, a list of texts or a dataset: a run's tagger, its base model, or any model."""

import atexit
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from semtag.store.run_dir import RunDir

CHUNK = 4096  # texts of a request, so that the engine never holds a whole dataset
LAST_WORDS = 2000  # characters of a failed engine's output in the error
PATIENCE = 60.0  # seconds for the engine to end by itself
COLUMNS = ("tags", "tags_format", "tags_reason")


@dataclass(frozen=True)
class Answer:
    """The tags of a text, with the format of the model's answer.

    `format` is valid, repaired or invalid. `reason` is None for a valid answer. Otherwise `reason` is a value of
    `semtag.generation.reasons`: the defect of the completion, or why the text could not be tagged.
    """

    tags: tuple[str, ...]
    format: str
    reason: str | None


class Tagger:
    """A process that tags texts by a run's tagger, by its base model, or by any model.

        with semtag.Tagger("runs/demo") as tagger:
            tagger("The governor holds the speed of a steam engine.").tags

    The model's process ends on `close()`, at the end of a `with` block, and with the process of the Tagger. A plain
    script needs no `if __name__ == "__main__"`, because the model runs in a process of its own.

    With `votes` above 1, an answer has the tags with most votes among `votes` samples. Each section of the config is a
    keyword argument, such as `sampling={"max_model_len": 4096}`. Raises UserError for a `model` that is neither a run
    nor a model, and for a model that vLLM cannot serve.
    """

    def __init__(
        self,
        model: "str | Path | RunDir",
        *,
        base: bool = False,
        constrained: bool = False,
        votes: int = 1,
        **sections: dict[str, Any],
    ) -> None:
        from semtag.store.run_dir import RunDir
        from semtag.tag_job import tagger_config

        if votes < 1:
            raise UserError(f"votes is {votes}.", "Set votes to 1 or more.")
        name = str(model.path) if isinstance(model, RunDir) else str(model)
        # The texts come from the caller, so no data is read.
        config = tagger_config(name, "-", base, sections=sections)
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, see close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "semtag.tagger_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            encoding="utf-8",
        )
        atexit.register(self.close)
        # Send the settings, and wait until the engine is ready.
        try:
            self._send({"config": config.model_dump(mode="json"), "constrained": constrained, "votes": votes})
            self._receive()  # an empty answer, once the engine is ready
        except BaseException:
            self.close()
            raise

    @overload
    def __call__(self, texts: str) -> Answer: ...

    @overload
    def __call__(self, texts: list[str]) -> list[Answer]: ...

    @overload
    def __call__(self, texts: "Dataset", column: str = "text") -> "Dataset": ...

    def __call__(self, texts: Any, column: str = "text") -> "Answer | list[Answer] | Dataset":
        """Tag a text, a list of texts, or the texts in a dataset's `column`; return answers in the order of the texts.

        A dataset comes back with the columns `tags`, `tags_format` and `tags_reason`. A text that cannot be tagged gets
        an answer with the reason, and the other texts are tagged. Raises UserError for a `column` that the dataset
        lacks, and RuntimeError when the engine died or the Tagger is closed.
        """
        if isinstance(texts, str):
            return self._answers([texts])[0]
        if hasattr(texts, "column_names"):
            return self._tag_dataset(texts, column)
        return self._answers([*texts])

    def _tag_dataset(self, dataset: Any, column: str) -> "Dataset":
        if column not in dataset.column_names:
            names = ", ".join(dataset.column_names)
            raise UserError(f"The dataset has no column '{column}'.", f"Set column to one of {names}.")
        if taken := sorted({*COLUMNS} & {*dataset.column_names}):
            problem = f"The dataset has columns with the names of new columns: {', '.join(taken)}."
            raise UserError(problem, "Rename these columns.")
        from datasets import Dataset, Features, List, Value, concatenate_datasets

        answers = self._answers(dataset[column][:])
        rows = [dict(zip(COLUMNS, ([*one.tags], one.format, one.reason), strict=True)) for one in answers]
        types = Features(tags=List(Value("string")), tags_format=Value("string"), tags_reason=Value("string"))
        return concatenate_datasets([dataset, Dataset.from_list(rows, features=types)], axis=1)

    def _answers(self, texts: Sequence[Any]) -> list[Answer]:
        answers = list[Answer]()
        with Progress("tag", "texts", sys.stderr) as progress:
            progress.begin(len(texts))
            for start in range(0, len(texts), CHUNK):
                self._send({"texts": [*map(_sendable, texts[start : start + CHUNK])]})
                found = self._receive()
                answers += [Answer(tuple(tags), format_, reason) for tags, format_, reason in found]
                progress.advance(len(found))
        return answers

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        if self._process.stdin.closed:
            raise RuntimeError("This Tagger is closed. Make another Tagger.")
        with contextlib.suppress(BrokenPipeError):  # _receive says why the engine has ended
            self._process.stdin.write(f"{json.dumps(message)}\n")
            self._process.stdin.flush()

    def _receive(self) -> list[list[Any]]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise RuntimeError(f"The engine has ended. The end of its output: {self._said.read()[-LAST_WORDS:]}")
        found: dict[str, Any] = json.loads(line)
        if "problem" in found:
            raise UserError(found["problem"], found["mend"])
        answers: list[list[Any]] = found["answers"]
        return answers

    def close(self) -> None:
        """End the engine, and give its memory back. Does nothing after the engine has ended."""
        atexit.unregister(self.close)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._said.close()

    def __enter__(self) -> "Tagger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sendable(text: object) -> object:
    """Return a text or None as it is, any other object as an empty list, because JSON takes few types."""
    return text if text is None or isinstance(text, str) else []
