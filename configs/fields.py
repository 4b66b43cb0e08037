"""What the fields of all config sections are made of."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

# Marks keys that change how fast or where a run works, never what it makes:
# a resumed run may differ from its first start in these alone.
OPERATIONAL: JsonDict = {"operational": True}

STORES = ("s3", "gs", "hf")

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def operational(default: Any, description: str, **bounds: Any) -> Any:
    """A field that may change between the start and the resumption of a run."""
    return Field(default, description=description, json_schema_extra=OPERATIONAL, **bounds)


def place_name(name: str) -> str:
    """The name of a place: a path, also where it came as file:///PATH, or one in a store, or a name on a hub.

    Raises ValueError for a store that Semtag does not speak to, and for credentials or settings of the connection.
    """
    store, is_url, rest = name.partition("://")
    if store == "file" and rest.startswith("/"):
        return rest
    if is_url and store not in STORES:
        raise ValueError(f"{name} cannot be reached: take a path, s3://, gs:// or, to read alone, hf://")
    if "@" in rest or "?" in rest:
        raise ValueError(
            f"{store}://... must name a bucket and a path alone; endpoint and credentials come from the environment"
        )
    return name


def _root_of_runs(name: str) -> str:
    """Raises ValueError for a store that holds no runs, and what Arrow, which reads it as a URI, would misread."""
    if "://" in name and not re.fullmatch(r"(s3|gs)://[\w./:+=,~-]+", name, re.ASCII):
        raise ValueError(
            f"'{name}' holds no runs: use a path, s3://BUCKET/PATH or gs://BUCKET/PATH, spelled with letters a to z, "
            "digits and ./:_-+=,~ alone"
        )
    return name


PlaceName = Annotated[str, AfterValidator(place_name)]
RunRoot = Annotated[PlaceName, AfterValidator(_root_of_runs)]


class Section(BaseModel):
    """Base of all config sections: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)
