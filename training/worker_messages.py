"""Messages from the processes of a training to the stage that started them, in a file of JSON lines."""

import io
import json
import traceback
from pathlib import Path
from typing import Any

from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError


class MessageWriter(Progress):
    """Progress of a training process, written for `MessageReader`. If `is_main` is false, only errors are written."""

    def __init__(self, file: Path, is_main: bool) -> None:
        super().__init__("train", "steps", io.StringIO())
        self._file, self._is_main = file, is_main

    def say(self, message: str) -> None:
        """Write a line to show."""
        self._tell("say", message)

    def begin(self, total: int, before: int = 0, unit: str | None = None) -> None:
        """Write that the count begins again."""
        super().begin(total, before, unit)
        self._tell("begin", total, before, self.unit)

    def set(self, count: int, note: str = "") -> None:
        """Write the count."""
        self._tell("set", count, note)
        self.count = count

    def failed(self, error: BaseException) -> None:
        """Write the error that ends this process."""
        self._is_main = True
        if isinstance(error, UserError):
            self._tell("mistake", error.what, error.mend)
        else:
            self._tell("trace", "".join(traceback.format_exception(error)[-12:]))

    def _tell(self, *event: Any) -> None:
        if self._is_main:
            # Append each line by one short write, so that the lines of several processes do not mix.
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")


def mistake_in(file: Path) -> UserError | None:
    """Return the first UserError that a process wrote. Ray starts processes again after any error, also after this."""
    for line in file.read_bytes().splitlines() if file.exists() else ():
        if line.startswith(b'["mistake"'):
            return UserError(*json.loads(line)[1:])
    return None


class MessageReader:
    """Reader of `file` that shows the messages of training processes on `progress` and keeps the first error."""

    def __init__(self, file: Path, progress: Progress) -> None:
        file.unlink(missing_ok=True)
        file.touch()
        self.file, self._progress, self._read = file, progress, 0
        self._error: UserError | None = None
        self._trace = ""

    def show(self) -> None:
        """Show the messages since the last call."""
        with self.file.open("rb") as file:
            file.seek(self._read)
            told = file.read()
        whole = told[: told.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            match json.loads(line):
                case ["mistake", what, mend]:
                    self._error = self._error or UserError(what, mend)
                case ["trace", trace]:
                    self._trace = self._trace or trace
                case [method, *arguments]:
                    getattr(self._progress, method)(*arguments)

    def failure(self, how: str) -> Exception:
        """Return the first UserError of a process, else a RuntimeError with `how` and the first traceback."""
        self.show()
        return self._error or RuntimeError(f"{how}\n{self._trace}")
