"""What a run records of its steps: the manifest and the ledger, as they lie in their JSON files."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

StepCounts = dict[str, Any]  # what a step counted, by names of its own, as manifest.json keeps it


class Record(BaseModel):
    """Base of the records: frozen, and written as they were read, with the names of the files."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        """What the file holds; nothing of what was never set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class StepRecord(Record):
    """A step that has begun. What comes behind `identity` is there once it is done."""

    state: Literal["running", "done"]
    started: str  # ISO 8601, UTC
    config: dict[str, Any]  # dotted key -> value, of those that shape what the step makes
    identity: str  # hash of `config`
    finished: str | None = None
    peak_mb: int | None = None  # memory of the step's own process
    counts: StepCounts = {}
    versions: dict[str, str] = {}  # of the installed packages that shape results


class Manifest(Record):
    """The steps of a run, by name, in the order in which they began."""

    schema_version: int = Field(alias="schema")
    created: str | None = None
    steps: dict[str, StepRecord] = {}


class Balance(Record):
    """What came into a step, what went out, and what was dropped, by reason."""

    came_in: int = Field(alias="in")
    went_out: int = Field(alias="out")
    dropped: dict[str, int]

    @property
    def lost(self) -> int:
        """How many were dropped."""
        return sum(self.dropped.values())

    @property
    def holds(self) -> bool:
        """Whether nothing is unaccounted for."""
        return self.came_in == self.went_out + self.lost


class Ledger(RootModel[dict[str, dict[str, Balance]]]):
    """Step -> unit -> balance."""

    def of(self, step: str) -> dict[str, Balance]:
        """The balances of a step by unit; empty where there is none."""
        return self.root.get(step, {})

    def as_json(self) -> dict[str, Any]:
        """What the file holds."""
        return self.model_dump(mode="json", by_alias=True)
