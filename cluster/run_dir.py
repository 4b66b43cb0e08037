"""The run directory: what is in it, who may write to it, and what is finished."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.lease import lease
from cluster.packaged import weights_in
from cluster.places import Place, place_at, remove, upload, working_folder
from configs.errors import UserError
from configs.load import differences, dump_config, flatten, load_config
from configs.schema import Config

SCHEMA_VERSION = 3
MIN_FREE_BYTES = 64 * 2**20

# Which config sections shape what a stage makes; a stage that has begun pins their values for the run.
STAGE_SECTIONS = {
    "texts": ("run.seed", "data."),
    "base": ("run.seed", "model.", "prompt."),
    "rank": ("run.seed", "model.base", "model.chat_template", "prompt.", "sampling.", "scoring."),
    "pairs": ("run.seed", "pairs."),
    "train": ("run.seed", "training."),
    "evaluate": ("run.seed", "evaluation."),
}
STAGES = tuple(STAGE_SECTIONS)


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

    @classmethod
    def of(cls, config: Config) -> "RunDir":
        """The directory that the config names."""
        return cls(place_at(config.run.root) / config.run.name)

    # -- config ---------------------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the directory. Raises UserError when the disk is full or not writable."""
        try:
            self.here.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.here).free < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise disk_error(error, self.here) from None

    def start(self, config: Config) -> None:
        """Write the config and, for a new run, the manifest. Raises UserError as `create` and `check_same` do."""
        self.check_same(config)
        try:
            self.write_text("config.yaml", dump_config(config))
            for stage in filter(self.is_done, STAGES):  # a kill can come between a stage's end and its clearing up
                self._clear_unfinished(stage)
            if not (self.path / "manifest.json").exists():
                self.write_json("manifest.json", {"schema": SCHEMA_VERSION, "created": _now(), "stages": {}})
        except OSError as error:
            raise disk_error(error, self.path) from None

    def config(self) -> Config:
        """The resolved config the run was started with."""
        self._require("config.yaml")
        return load_config(self.path / "config.yaml")

    def check_same(self, config: Config) -> None:
        """Raises UserError when a stage that has begun was shaped by other values, naming the keys that differ."""
        differing = []
        for stage, entry in self.manifest()["stages"].items():
            differing += differences(entry["config"], shaping_values(config, stage), f"when the {stage} stage ran")
        if differing:
            lines = "\n  ".join(dict.fromkeys(differing))
            raise UserError(
                f"{self.path} holds a run of another config:\n  {lines}",
                "Set the keys back, or give the new run a name of its own with run.name=...",
            )

    # -- stages ---------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest, or an empty one where there is none yet."""
        file = self.path / "manifest.json"
        if not file.exists():
            return {"schema": SCHEMA_VERSION, "stages": {}}
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if manifest.get("schema") != SCHEMA_VERSION:
            raise UserError(f"{file} has schema {manifest.get('schema')}, this Semtag writes {SCHEMA_VERSION}.")
        return manifest

    def is_done(self, stage: str) -> bool:
        """Whether the stage finished."""
        state: dict[str, Any] = self.manifest()["stages"].get(stage, {})
        return state.get("state") == "done"

    def begin(self, stage: str, config: Config) -> None:
        """Record that the stage runs, with the values that shape it, and forget what a killed attempt left."""
        self._clear_partial()
        values = shaping_values(config, stage)
        self._set_stage(stage, {"state": "running", "started": _now(), "config": values, "identity": identity(values)})

    def finish(self, stage: str, counts: dict[str, Any], versions: dict[str, str]) -> None:
        """Record that the stage is done, with this process's peak of memory in MB."""
        entry = self.manifest()["stages"][stage]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        entry |= {"state": "done", "finished": _now(), "peak_mb": peak, "counts": counts, "versions": versions}
        self._set_stage(stage, entry)
        self._clear_unfinished(stage)

    def _set_stage(self, stage: str, entry: dict[str, Any]) -> None:
        manifest = self.manifest()
        manifest["stages"][stage] = entry
        self.write_json("manifest.json", manifest)

    def record(self, stage: str, unit: str, came_in: int, went_out: int, dropped: dict[str, int]) -> None:
        """Replace the stage's entry for `unit` in the ledger. Raises ValueError when it does not balance."""
        if came_in != went_out + sum(dropped.values()):
            raise ValueError(f"{stage} ledger of {unit}: {came_in} in, {went_out} out, dropped {dropped}")
        ledger = self.ledger()
        ledger.setdefault(stage, {})[unit] = {
            "in": came_in,
            "out": went_out,
            "dropped": dict(sorted(dropped.items())),
        }
        self.write_json("ledger.json", ledger)

    def ledger(self) -> dict[str, Any]:
        """Stage -> unit -> {in, out, dropped by reason}."""
        file = self.path / "ledger.json"
        ledger: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return ledger

    # -- files ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local folder that becomes `name` when the block ends well, replacing what stood there."""
        target, partial = self.path / name, (self.here / name).with_name(f".{Path(name).name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        remove(target)
        if isinstance(target, Path):
            partial.rename(target)
        else:
            upload(partial, target)
            shutil.rmtree(partial)

    @contextlib.contextmanager
    def sharing(self, name: str) -> Iterator[Place]:
        """The same for a folder that the workers of all nodes write into."""
        if isinstance(self.path, Path):
            with self.writing(name) as folder:
                yield folder
        else:
            remove(self.path / name)
            yield self.path / name

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A local folder that is gone after the block."""
        folder = self.here / f".{name}.partial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def shared_scratch(self, name: str) -> Iterator[Place]:
        """The same for a folder that the workers of all nodes reach."""
        if isinstance(self.path, Path):
            with self.scratch(name) as folder:
                yield folder
            return
        shared = self.path / f".{name}.partial"
        remove(shared)
        try:
            yield shared
        finally:
            remove(shared)

    def unfinished_path(self, stage: str) -> Place:
        """A folder for what a stage has so far; it outlives failed attempts and goes when the stage is done."""
        return self.path / f".{stage}.unfinished"

    def _clear_unfinished(self, stage: str) -> None:
        remove(self.unfinished_path(stage))
        remove(self.here / self.unfinished_path(stage).name)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        target = self.path / name
        if not isinstance(target, Path):
            target.write_text(text, encoding="utf-8")
            return
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. Raises UserError when another one holds it."""
        with (self.here / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"Another process works on {self.path}.", "Wait for it, or end it.") from None
            with contextlib.nullcontext() if isinstance(self.path, Path) else lease(self.path / ".lock"):
                yield

    def keep_logs(self) -> None:
        """Put a copy of the logs and training curves of this machine into the store, where the run lies in one."""
        if isinstance(self.path, Path):
            return
        for name in ("logs", "tensorboard"):
            upload(self.here / name, self.path / name)

    def _clear_partial(self) -> None:
        partials: list[Place] = [*self.path.rglob(".*.partial")]
        if self.here != self.path:
            partials += self.here.rglob(".*.partial")
        for partial in partials:
            remove(partial) if partial.is_dir() else partial.unlink()

    def _require(self, name: str) -> None:
        if not (self.path / name).exists():
            raise UserError(f"{self.path} is not a run directory: it has no {name}.", "Start it with `semtag run`.")


def shaping_values(config: Config, stage: str) -> dict[str, Any]:
    """The config values that shape what a stage makes, and hashes of packaged models: dotted key -> value."""
    prefixes = STAGE_SECTIONS[stage]
    flat = flatten(config, shaping_only=True)
    values = {key: value for key, value in flat.items() if key.startswith(prefixes)}
    if config.model.base != "demo":
        values = {key: value for key, value in values.items() if not key.startswith("model.demo.")}
    return values | weights_in(values)


def identity(values: dict[str, Any]) -> str:
    """Hash of the values that shape a stage's data, 16 hex digits."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


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


def disk_error(error: OSError, path: Place) -> UserError:
    """The error of the disk in words, for a full disk with its mend."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk that holds {path} is full.",
            "Free some space or set run.root to another disk, then run the same command again: it resumes.",
        )
    return UserError(f"Cannot write to {path}: {error.strerror or error}.", "Check run.root and its permissions.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
