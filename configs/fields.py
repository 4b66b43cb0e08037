"""What the fields of all config sections are made of."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

# Marks keys that change how fast or where a run works, never what it makes:
# a resumed run may differ from its first start in these alone.
OPERATIONAL: JsonDict = {"operational": True}

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def operational(default: Any, description: str, **bounds: Any) -> Any:
    """A field that may change between the start and the resumption of a run."""
    return Field(default, description=description, json_schema_extra=OPERATIONAL, **bounds)


def _without_secrets(name: str) -> str:
    """Raises ValueError for a place in a store whose name carries credentials or settings of the connection."""
    store, _, rest = name.partition("://")
    if rest and ("@" in rest or "?" in rest):
        raise ValueError(
            f"{store}://... must name a bucket and a path alone; endpoint and credentials come from the environment"
        )
    return name


def _same_to_all(name: str) -> str:
    """Raises ValueError for a place in a store that Arrow, which reads it as a URI, would decode or refuse."""
    if "://" in name and not re.fullmatch(r"[\w./:+=,~-]+", name, re.ASCII):
        raise ValueError(f"'{name}' must be spelled with letters a to z, digits and ./_-+=,~ alone")
    return name


PlaceName = Annotated[str, AfterValidator(_without_secrets)]
RunRoot = Annotated[PlaceName, AfterValidator(_same_to_all)]


class Section(BaseModel):
    """Base of all config sections: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)
