"""The parts of all config sections: bounded types, names of locations, and the base class."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

# Marks keys that change the speed or the place of a run's work, never its results.
# Only these keys may differ between a run's start and its resumption.
OPERATIONAL: JsonDict = {"operational": True}

STORES = ("s3", "gs", "hf")  # schemes of URLs; hf is read-only

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def operational(default: Any, description: str, **bounds: Any) -> Any:
    """Return a field whose value may change between the start and the resumption of a run."""
    return Field(default, description=description, json_schema_extra=OPERATIONAL, **bounds)


def place_name(name: str) -> str:
    """Check the name of a location, and return it: a path, a URL of an object store, or a name on a hub.

    Example: `file:///data/x` becomes `/data/x`. Raises ValueError for an unknown scheme, and for credentials or
    connection settings in a URL.
    """
    store, is_url, rest = name.partition("://")
    if store == "file" and rest.startswith("/"):
        return rest
    if is_url and store not in STORES:
        raise ValueError(f"{name} cannot be reached: use a path, s3://, gs:// or, for reading only, hf://")
    if "@" in rest or "?" in rest:
        raise ValueError(
            f"{store}://... must name a bucket and a path, without '@' and '?', because endpoint and credentials come "
            "from the environment"
        )
    return name


def _root_of_runs(name: str) -> str:
    """Check a location for runs.

    Raises ValueError for a scheme other than s3 and gs, and for characters that Arrow would misread in a URI.
    """
    if "://" in name and not re.fullmatch(r"(s3|gs)://[\w./:+=,~-]+", name, re.ASCII):
        raise ValueError(
            f"'{name}' cannot hold runs: use a path, s3://BUCKET/PATH or gs://BUCKET/PATH, with only letters a to z, "
            "digits and ./:_-+=,~"
        )
    return name


def _server_url(url: str) -> str:
    """Check the URL of a server. Raises ValueError for another scheme than http and https, and for credentials."""
    if not re.fullmatch(r"https?://[^\s@?#]+", url):
        raise ValueError(f"'{url}' is not the URL of a server, such as http://127.0.0.1:8000/v1 without credentials")
    return url


PlaceName = Annotated[str, AfterValidator(place_name)]


def is_readable_by_others(url: str) -> bool:
    """Check whether a URL leads to another machine without encryption."""
    host = urlsplit(url).hostname or ""
    return url.startswith("http://") and host != "localhost" and not host.startswith(("127.", "::1"))


ServerUrl = Annotated[str, AfterValidator(_server_url)]
RunRoot = Annotated[PlaceName, AfterValidator(_root_of_runs)]


class Section(BaseModel):
    """Base of all config sections. Unknown keys are errors, and values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)


def check_placement(kind: Any, section: str) -> None:
    """Check the keys of a pool of actors. Raises ValueError for keys that contradict each other."""
    if kind.max_actors is not None and kind.max_actors < kind.actors:
        raise ValueError(
            f"{section}.max_actors {kind.max_actors} is less than {section}.actors {kind.actors}: "
            f"raise {section}.max_actors or set it to null"
        )
    if kind.accelerator_type is not None and not kind.gpus_per_actor:
        raise ValueError(f"{section}.accelerator_type {kind.accelerator_type} needs {section}.gpus_per_actor above 0")
