"""The records of a run's steps, as its JSON files hold them: the manifest and the ledger."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

StepCounts = dict[str, Any]  # counts of a step, as manifest.json keeps them; each stage has its own names


class Record(BaseModel):
    """Base of the records. Records are frozen, and their aliases are the keys of the JSON files."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        """Return the record as the file holds it, without fields that were never set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class StepRecord(Record):
    """A step that has begun. The fields after `identity` are set when the step is done."""

    state: Literal["running", "done"]
    started: str  # ISO 8601, UTC
    config: dict[str, Any]  # dotted key -> value, for the keys that shape the step's results
    identity: str  # hash of `config`
    finished: str | None = None
    peak_mb: int | None = None  # peak memory of the step's own process, in MiB
    counts: StepCounts = {}
    versions: dict[str, str] = {}  # of the installed packages that shape results
    taken_from: str | None = None  # the run that did the step, if a fork took the step over


class Manifest(Record):
    """The steps of a run, by name, in the order in which they began."""

    schema_version: int = Field(alias="schema")
    created: str | None = None
    steps: dict[str, StepRecord] = {}


class Balance(Record):
    """The numbers that came into a step, that went out, and that were dropped by reason."""

    came_in: int = Field(alias="in")
    went_out: int = Field(alias="out")
    dropped: dict[str, int]

    @property
    def lost(self) -> int:
        """Return the number dropped, over all reasons."""
        return sum(self.dropped.values())

    @property
    def holds(self) -> bool:
        """Return whether as many went out or were dropped as came in."""
        return self.came_in == self.went_out + self.lost


class Ledger(RootModel[dict[str, dict[str, Balance]]]):
    """The ledger: step -> unit -> balance."""

    def of(self, step: str) -> dict[str, Balance]:
        """Return the balances of a step by unit; empty for a step without entries."""
        return self.root.get(step, {})

    def as_json(self) -> dict[str, Any]:
        """Return the ledger as the file holds it."""
        return self.model_dump(mode="json", by_alias=True)
