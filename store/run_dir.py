"""The run directory: what is in it, who may write to it, and what is finished."""

import contextlib
import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from semtag.configs.errors import UserError
from semtag.configs.load import differences, dump_config, flatten, load_config
from semtag.configs.schema import Config
from semtag.store.layout import RunLayout, Step
from semtag.store.lease import check_held, file_lock, lease
from semtag.store.locations import (
    Place,
    disk_error,
    make_folder,
    place_at,
    put_in_place,
    remove,
    short_hash,
    upload,
    working_folder,
    write_json,
    write_text,
)
from semtag.store.manifest import Balance, Ledger, Manifest, StepCounts, StepRecord
from semtag.store.packaged import weights_in
from semtag.store.process_cleanup import left_at_work
from semtag.store.stages import STAGES

SCHEMA_VERSION = 5
MIN_FREE_BYTES = 64 * 2**20
AnyPlace = TypeVar("AnyPlace", bound=Place)


class RunDir:
    """One directory, on a disk or in an object store, that holds all that one job made.

    Every file in it appears whole or not at all: stages write into `writing(name)`, small files are replaced
    atomically. The manifest records, for each stage, its state, counts and the config values that shaped it; in a
    store, which cannot rename folders, it alone says whether a folder is complete. `here` is the part of the run that
    only this machine needs, such as checkpoints: the directory itself, or for one in a store a local folder beside it.
    """

    def __init__(self, path: str | Place) -> None:
        self.path = place_at(path)
        self.here = self.path if isinstance(self.path, Path) else working_folder(self.path)
        self.layout = RunLayout(self.path, self.here)

    @classmethod
    def of(cls, config: Config) -> "RunDir":
        """The directory that the config names."""
        return cls(place_at(config.run.root) / config.run.name)

    # -- config ---------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the directory. Raises UserError when the disk is full or not writable."""
        make_folder(self.here)
        if shutil.disk_usage(self.here).free < MIN_FREE_BYTES:
            raise disk_error(OSError(errno.ENOSPC, ""), self.here)

    def start(self, config: Config) -> None:
        """Write the config and, for a new run, the manifest. Raises UserError as `create` and `check_same` do."""
        self.check_same(config)
        write_text(self.layout.config, dump_config(config))
        for step in self.done():  # a kill can come between a step's end and its clearing up
            self._clear_unfinished(step)
        if not self.layout.manifest.exists():
            new = Manifest(schema_version=SCHEMA_VERSION, created=_now(), steps={})
            write_json(self.layout.manifest, new.as_json())

    def config(self) -> Config:
        """The resolved config the run was started with."""
        if not self.layout.config.exists():
            raise UserError(
                f"{self.path} is not a run directory: it has no config.yaml.", "Start it with `semtag run`."
            )
        return load_config(self.layout.config)

    def check_same(self, config: Config) -> None:
        """Raises UserError when a step that has begun was shaped by other values, naming the keys that differ."""
        differing = []
        for name, record in self.manifest().steps.items():
            values = shaping_values(config, Step.of(name))
            differing += differences(record.config, values, f"when {name} ran")
        if differing:
            lines = "\n  ".join(dict.fromkeys(differing))
            raise UserError(
                f"{self.path} holds a run of another config:\n  {lines}",
                "Set the keys back, or give the new run a name of its own with run.name=...",
            )

    # -- steps ----------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """The manifest, or an empty one where there is none yet. Raises UserError for one of another version."""
        file = self.layout.manifest
        if not file.exists():
            return Manifest(schema_version=SCHEMA_VERSION)
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("schema") != SCHEMA_VERSION:
            raise UserError(
                f"{file} has schema {values.get('schema')}, this Semtag writes {SCHEMA_VERSION}.",
                "Read the run with the Semtag that wrote it, or start a new one under another run.name.",
            )
        return Manifest.model_validate(values)

    def done(self) -> list[Step]:
        """The steps that finished, in the order in which they began."""
        steps = self.manifest().steps
        return [Step.of(name) for name, record in steps.items() if record.state == "done"]

    def is_done(self, step: Step) -> bool:
        """Whether the step finished."""
        return step in self.done()

    def counts(self, step: Step) -> StepCounts:
        """What a finished step counted; nothing of any other."""
        record = self.manifest().steps.get(step.name)
        return record.counts if record else {}

    def begin(self, step: Step, config: Config) -> None:
        """Record that the step runs, with the values that shape it, and delete half-written folders."""
        self._clear_partial()
        values = shaping_values(config, step)
        record = StepRecord(state="running", started=_now(), config=values, identity=identity(values))
        self._set_step(step, record)

    def finish(self, step: Step, counts: StepCounts, versions: dict[str, str]) -> None:
        """Record that the step is done, with this process's peak of memory in MB."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        found = {"state": "done", "finished": _now(), "peak_mb": peak, "counts": counts, "versions": versions}
        self._set_step(step, self.manifest().steps[step.name].model_copy(update=found))
        self._clear_unfinished(step)

    def _set_step(self, step: Step, record: StepRecord) -> None:
        check_held(self.path)
        manifest = self.manifest()
        steps = manifest.steps | {step.name: record}
        write_json(self.layout.manifest, manifest.model_copy(update={"steps": steps}).as_json())

    def record(self, step: Step, unit: str, came_in: int, went_out: int, dropped: dict[str, int]) -> None:
        """Replace the step's entry for `unit` in the ledger. Raises ValueError when it does not balance."""
        balance = Balance(came_in=came_in, went_out=went_out, dropped=dict(sorted(dropped.items())))
        if not balance.holds:
            raise ValueError(f"{step.name} ledger of {unit}: {came_in} in, {went_out} out, dropped {dropped}")
        check_held(self.path)
        ledger = self.ledger()
        units = ledger.of(step.name) | {unit: balance}
        write_json(self.layout.ledger, Ledger(ledger.root | {step.name: units}).as_json())

    def ledger(self) -> Ledger:
        """The ledger, or an empty one where there is none yet."""
        file = self.layout.ledger
        return Ledger.model_validate_json(file.read_text(encoding="utf-8") if file.exists() else "{}")

    # -- files ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, target: Place) -> Iterator[Path]:
        """A local folder that becomes the run's folder `target` when the block ends well, in place of an old one."""
        check_held(self.path)
        inside = self.here / str(target).removeprefix(str(self.path)).strip("/")
        partial = inside.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        check_held(self.path)
        if isinstance(target, Path):
            put_in_place(partial, target)
        else:
            remove(target)
            upload(partial, target)
            shutil.rmtree(partial)

    @contextlib.contextmanager
    def sharing(self, target: Place) -> Iterator[Place]:
        """The same for a folder that the workers of all nodes write into."""
        if isinstance(target, Path):
            with self.writing(target) as folder:
                yield folder
        else:
            check_held(self.path)
            remove(target)
            yield target

    def scratch(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A local folder that is gone after the block."""
        return _temporary(self.here / f".{name}.partial")

    def shared_scratch(self, name: str) -> contextlib.AbstractContextManager[Place]:
        """The same for a folder that the workers of all nodes reach."""
        return _temporary(self.path / f".{name}.partial")

    def _clear_unfinished(self, step: Step) -> None:
        for folder in self.layout.unfinished(step):
            remove(folder)

    @contextlib.contextmanager
    def lock(self, reading: bool = False) -> Iterator[TextIO]:
        """Hold the run for this process and for those that get the file. Raises UserError when another one holds it.

        With `reading`, a run that cannot be written to is read all the same.
        """
        make_folder(self.here)
        path = self.here.resolve() / ".lock"
        with file_lock(path, self.path, reading) as (file, place):
            if left := left_at_work(str(path)):
                raise UserError(f"Processes {left} of a killed command work on {self.path}.", "End them.")
            with lease(self.path, place, reading):
                yield file

    def open_log(self, name: str) -> int:
        """A descriptor that writes to the end of a step's log here, behind what an earlier attempt left, elsewhere too.

        Libraries may print what they were given, so the log is for this user's eyes alone.
        """
        log = self.layout.log(name)
        make_folder(log.parent)
        if not isinstance(self.path, Path) and not log.exists():
            kept = self.path / log.relative_to(self.here).as_posix()
            with contextlib.suppress(Exception):  # there may be none; a store that fails is named by the work itself
                log.write_bytes(kept.read_bytes())
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor

    def keep_logs(self) -> None:
        """Put a copy of the logs and training curves of this machine into the store, where the run lies in one."""
        if isinstance(self.path, Path):
            return
        for folder in (self.layout.logs, *self.here.glob("round-*/tensorboard")):
            upload(folder, self.path / folder.relative_to(self.here).as_posix())

    def _clear_partial(self) -> None:
        for folder in {self.path, self.here}:
            for partial in [*folder.rglob(".*.partial")]:
                remove(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _temporary(folder: AnyPlace) -> Iterator[AnyPlace]:
    remove(folder)
    if isinstance(folder, Path):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def shaping_values(config: Config, step: Step) -> dict[str, Any]:
    """The config values that shape what a step makes, and hashes of packaged models: dotted key -> value."""
    settings = config.of_round(step.round) if step.round else config
    flat = flatten(settings, shaping_only=True)
    if config.rounds.texts == "reuse":
        del flat["rounds.count"]  # a round more changes no text of the others
    values = {key: value for key, value in flat.items() if key.startswith(STAGES[step.stage].keys)}
    return values | weights_in(values)


def identity(values: dict[str, Any]) -> str:
    """Hash of the values that shape a stage's data, 16 hex digits."""
    return short_hash(json.dumps(values, sort_keys=True))


def check_rejected(rejected: dict[str, int], total: int, config: Config, where: Place) -> None:
    """Raises UserError when more than `run.max_rejected` of `total` rows are rejected, naming the reasons."""
    reasons = {reason: number for reason, number in rejected.items() if reason != "duplicate"}
    share = sum(reasons.values()) / max(1, total)
    if share > config.run.max_rejected:
        raise UserError(
            f"{share:.1%} of {total:,} rows are rejected, more than run.max_rejected={config.run.max_rejected:g}: "
            f"{', '.join(f'{number:,} {reason}' for reason, number in reasons.items())}.",
            f"Look at {where}, mend the data or the config, or raise run.max_rejected and run the same command again.",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
