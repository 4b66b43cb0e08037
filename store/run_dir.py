"""The run directory: its files, its lock and lease, and its finished steps."""

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

SCHEMA_VERSION = 9  # of manifest.json
MIN_FREE_BYTES = 64 * 2**20  # a disk with less counts as full
AnyPlace = TypeVar("AnyPlace", bound=Place)


class RunDir:
    """The directory of a run, on a disk or in an object store.

    Every file appears whole or not at all: steps write folders through `writing`, and small files are replaced
    atomically. The manifest records each step's state, counts and shaping config values. An object store cannot rename
    a folder, so only the manifest says whether a folder there is complete. `here` is the local folder for files that
    only this machine needs, such as checkpoints. For a run on a disk, `here` is the directory itself.
    """

    def __init__(self, path: str | Place) -> None:
        self.path = place_at(path)
        self.local_dir = self.path if isinstance(self.path, Path) else working_folder(self.path)
        self.layout = RunLayout(self.path, self.local_dir)

    @classmethod
    def of(cls, config: Config) -> "RunDir":
        """Return the directory that the config names."""
        return cls(place_at(config.run.root) / config.run.name)

    # -- config ---------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the directory. Raises UserError when the disk is full or not writable."""
        make_folder(self.local_dir)
        if shutil.disk_usage(self.local_dir).free < MIN_FREE_BYTES:
            raise disk_error(OSError(errno.ENOSPC, ""), self.local_dir)

    def start(self, config: Config) -> None:
        """Write the config and, for a new run, the manifest. Raises UserError as `create` and `check_same` do."""
        self.refuse_changed_config(config)
        write_text(self.layout.config, dump_config(config))
        for step in self.done():  # a kill can come between a step's end and its cleanup
            self._clear_unfinished(step)
        if not self.layout.manifest.exists():
            new = Manifest(schema_version=SCHEMA_VERSION, created=_now(), steps={})
            write_json(self.layout.manifest, new.as_json())

    def config(self) -> Config:
        """Return the resolved config that the run was started with. Raises UserError as `manifest` does."""
        if not self.layout.config.exists():
            raise UserError(
                f"{self.path} is not a run directory: it has no config.yaml.",
                "Check the path, or start a run with `semtag run`.",
            )
        self.manifest()  # a run of another version is refused by its number, not by the keys that it has or lacks
        return load_config(self.layout.config)

    def refuse_changed_config(self, config: Config) -> None:
        """Compare the config with the steps that have begun. Raises UserError that names the keys that differ."""
        differing = []
        for name, record in self.manifest().steps.items():
            values = result_settings(config, Step.of(name))
            differing += differences(record.config, values, f"when {name} ran")
        if differing:
            lines = "\n  ".join(dict.fromkeys(differing))
            raise UserError(
                f"{self.path} holds a run of another config:\n  {lines}",
                "Set the keys back, or give the new run a name of its own with run.name=...",
            )

    # -- steps ----------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """Return the manifest, empty for a new run. Raises UserError for another version of the schema."""
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
        """Return the steps that finished, in the order in which they began."""
        steps = self.manifest().steps
        return [Step.of(name) for name, record in steps.items() if record.state == "done"]

    def is_done(self, step: Step) -> bool:
        """Return whether the step finished."""
        return step in self.done()

    def counts(self, step: Step) -> StepCounts:
        """Return the counts of a finished step; empty for other steps."""
        record = self.manifest().steps.get(step.name)
        return record.counts if record else {}

    def begin(self, step: Step, config: Config) -> None:
        """Record that the step runs, and the values that shape its results; delete half-written folders."""
        self._clear_partial()
        values = result_settings(config, step)
        record = StepRecord(state="running", started=_now(), config=values, identity=identity(values))
        self._set_step(step, record)

    def finish(self, step: Step, counts: StepCounts, versions: dict[str, str]) -> None:
        """Record that the step is done, with this process's peak memory in MiB."""
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
        """Replace the step's entry for `unit` in the ledger. Raises ValueError unless in = out + dropped."""
        balance = Balance(came_in=came_in, went_out=went_out, dropped=dict(sorted(dropped.items())))
        if not balance.holds:
            raise ValueError(f"{step.name}: {unit} do not balance: {came_in} in, {went_out} out, dropped {dropped}")
        check_held(self.path)
        ledger = self.ledger()
        units = ledger.of(step.name) | {unit: balance}
        write_json(self.layout.ledger, Ledger(ledger.root | {step.name: units}).as_json())

    def ledger(self) -> Ledger:
        """Return the ledger, empty for a new run."""
        file = self.layout.ledger
        return Ledger.model_validate_json(file.read_text(encoding="utf-8") if file.exists() else "{}")

    # -- files ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def replace_folder(self, target: Place) -> Iterator[Path]:
        """Yield a local folder, which replaces the run's folder `target` when the block ends without an error."""
        check_held(self.path)
        inside = self.local_dir / str(target).removeprefix(str(self.path)).strip("/")
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
    def replace_shared_folder(self, target: Place) -> Iterator[Place]:
        """Yield a folder for the workers of all nodes: as `writing` on a disk, or `target`, emptied, in a bucket."""
        if isinstance(target, Path):
            with self.replace_folder(target) as folder:
                yield folder
        else:
            check_held(self.path)
            remove(target)
            yield target

    def temporary_folder(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Return a context with a local folder, which is removed after the block."""
        return _temporary(self.local_dir / f".{name}.partial")

    def shared_temporary_folder(self, name: str) -> contextlib.AbstractContextManager[Place]:
        """Return a context with a folder that the workers of all nodes reach, which is removed after the block."""
        return _temporary(self.path / f".{name}.partial")

    def _clear_unfinished(self, step: Step) -> None:
        for folder in self.layout.unfinished(step):
            remove(folder)

    @contextlib.contextmanager
    def lock(self, reading: bool = False) -> Iterator[TextIO]:
        """Lock the run for this process and for children that inherit the file. Raises UserError for a locked run.

        With `reading`, a run that this process may not write is opened without a lease.
        """
        make_folder(self.local_dir)
        path = self.local_dir.resolve() / ".lock"
        with file_lock(path, self.path, reading) as (file, place):
            if left := left_at_work(str(path)):
                raise UserError(f"Processes {left} of a killed command work on {self.path}.", "End these processes.")
            with lease(self.path, place, reading):
                yield file

    def open_log(self, name: str) -> int:
        """Open a step's local log, and return a descriptor that appends to the log.

        The log of an earlier attempt, also on another machine, is kept. Only this user can read the log, because
        libraries may print their inputs.
        """
        log = self.layout.log(name)
        make_folder(log.parent)
        if not isinstance(self.path, Path) and not log.exists():
            kept = self.path / log.relative_to(self.local_dir).as_posix()
            with contextlib.suppress(Exception):  # no log yet; if the object store fails, the step says so
                log.write_bytes(kept.read_bytes())
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor

    def keep_logs(self) -> None:
        """Copy this machine's logs and training curves to the object store, if the run lies there."""
        if isinstance(self.path, Path):
            return
        for folder in (self.layout.logs, *self.local_dir.glob("round-*/tensorboard")):
            upload(folder, self.path / folder.relative_to(self.local_dir).as_posix())

    def _clear_partial(self) -> None:
        for folder in {self.path, self.local_dir}:
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


def result_settings(config: Config, step: Step) -> dict[str, Any]:
    """Return the config values that shape a step's results, and hashes of packaged models: dotted key -> value."""
    settings = config.of_round(step.round) if step.round else config
    flat = flatten(settings, shaping_only=True)
    if config.rounds.texts == "reuse":
        del flat["rounds.count"]  # one more round changes no text of the other rounds
    if not settings.training.held_out:
        del flat["training.save_steps"]  # without a held-out loss a checkpoint decides nothing
    values = {key: value for key, value in flat.items() if key.startswith(STAGES[step.stage].keys)}
    return values | weights_in(values)


def identity(values: dict[str, Any]) -> str:
    """Return the hash of the values that shape a step's results, 16 hex digits."""
    return short_hash(json.dumps(values, sort_keys=True))


def check_rejected(rejected: dict[str, int], total: int, config: Config, where: Place) -> None:
    """Check the rejects of `total` rows. Raises UserError, with the reasons, above the share `run.max_rejected`."""
    reasons = {reason: number for reason, number in rejected.items() if reason != "duplicate"}
    share = sum(reasons.values()) / max(1, total)
    if share > config.run.max_rejected:
        raise UserError(
            f"{share:.1%} of {total:,} rows are rejected, more than run.max_rejected={config.run.max_rejected:g}: "
            f"{', '.join(f'{number:,} {reason}' for reason, number in reasons.items())}.",
            f"Look at {where}. Fix the data or the config, or raise run.max_rejected, and run the same command again.",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
