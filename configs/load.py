"""YAML and `key=value` overrides -> Config, with errors that name the key and the fix."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from upath import UPath

from semtag.configs.errors import UserError
from semtag.configs.fields import place_name
from semtag.configs.schema import Config, merge_into

SHIPPED = Path(__file__).parent  # the folder of the configs that come with Semtag


def load_config(
    path: str | Path | UPath, overrides: Sequence[str] = (), sections: dict[str, Any] | None = None
) -> Config:
    """Read a YAML file, or a shipped config by its bare name, then change keys and validate.

    `sections` are keys by section, such as `{"training": {"beta": 0.5}}`. The overrides, such as `training.beta=0.5`,
    are applied after the sections. Raises UserError for a missing or broken file, a malformed override, an unknown key
    or a bad value.
    """
    values = _read_shipped(path) if is_shipped(path) else _read_yaml(_place_of(path))
    merge_into(values, sections or {})
    return override(values, overrides)


def is_shipped(path: str | Path | UPath) -> bool:
    """Return whether `path` is the bare name of a shipped config: `demo` for configs/demo.yaml."""
    name = str(path)
    return name.isidentifier() and (SHIPPED / f"{name}.yaml").is_file() and not Path(name).exists()


def _read_shipped(name: str | Path | UPath) -> dict[str, Any]:
    """Read a shipped config, with an absolute data.path if Semtag ships the texts as well."""
    values = _read_yaml(SHIPPED / f"{name}.yaml")
    texts = SHIPPED.parent / str(values["data"]["path"])
    if texts.is_file():
        values["data"]["path"] = str(texts)
    return values


def _place_of(path: str | Path | UPath) -> Path | UPath:
    try:
        return UPath(place_name(path)) if isinstance(path, str) else path
    except (ImportError, ValueError) as error:
        raise UserError(f"Cannot read the config: {error}.", "Name a YAML file on a disk or in a bucket.") from None


def override(values: dict[str, Any], overrides: Sequence[str]) -> Config:
    """Apply the overrides to nested values, and build a Config. Raises UserError as `load_config` does."""
    for one in overrides:
        _apply(values, one)
    return validate(values)


def validate(values: dict[str, Any]) -> Config:
    """Build a Config from nested values. Raises UserError with a line for each problem."""
    where = ""
    try:
        config = Config.model_validate(values)
        for number in range(1, config.rounds.count + 1):
            where = f" (in round {number})" if config.rounds.each else ""
            config.of_round(number)
        return config
    except ValidationError as error:
        lines = [_explain(problem) + where for problem in error.errors()]
        raise UserError("\n  ".join(["Invalid config:", *lines])) from None


def dump_config(config: Config) -> str:
    """Return the resolved config as YAML, in the schema's order."""
    values = config.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    # PyYAML reads Unicode's line breaks back as other characters, unless they are escaped.
    return text if yaml.safe_load(text) == values else yaml.safe_dump(values, sort_keys=False)


def flatten(config: BaseModel, prefix: str = "", shaping_only: bool = False) -> dict[str, Any]:
    """Return dotted key -> value; with `shaping_only`, without the keys that are marked operational.

    Example: a config of `training: {beta: 0.1}` becomes `{"training.beta": 0.1}`.
    """
    flat, values = dict[str, Any](), config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            flat |= flatten(value, f"{prefix}{name}.", shaping_only)
        elif not (shaping_only and isinstance(field.json_schema_extra, dict)):
            flat[prefix + name] = values[name]
    return flat


def differences(before: dict[str, Any], now: dict[str, Any], when: str) -> list[str]:
    """Return a line for each key whose value has changed since `when`.

    Example: `sampling.samples: 8 when rank-1 ran, 3 now`.
    """
    return [
        f"{key}: {before.get(key)!r} {when}, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the schema."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _read_yaml(path: Path | UPath) -> dict[str, Any]:
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise UserError(f"No config file at {path}.", f"Name a YAML file, or a config that is shipped: {shipped}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}", "Fix the line that the error names.") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds a {type(values).__name__}, not keys and values.", "Write `section: {key: value}`."
        )
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}' is not an override.", "Write key=value, for example training.beta=0.5")
    *sections, last = parts = key.strip().split(".")
    value = _value(text, _kinds(parts))
    for section in sections:
        values = _item(values, section, key) if isinstance(values, list) else values.setdefault(section, {})
        if not isinstance(values, dict | list):
            raise UserError(f"Unknown config key {key}: {section} is a value, not a section.", _nearest(key))
    if isinstance(values, list):
        _item(values, last, key)
        values[int(last)] = value
    else:
        values[last] = value


def _value(text: str, kinds: tuple[Any, ...]) -> Any:
    """Return the value of an override: YAML, or for a key of type str the text as it is.

    Example: `no` becomes False for a switch, and the string "no" for data.column. A variable of a chat template may be
    either, so YAML decides.
    """
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text
    if str not in kinds or bool in kinds or (text == "null" and NoneType in kinds):
        return value
    return value if isinstance(value, list) and any(get_origin(kind) is list for kind in kinds) else text


def _kinds(key: list[str]) -> tuple[Any, ...]:
    """Return the types that the schema allows for a dotted key, none for an unknown key.

    Example: `str | None` becomes `(str, NoneType)`. A round's keys have the types of the sections that they change.
    """
    kinds: tuple[Any, ...] = (Config,)
    for part in key[3:] if key[:2] == ["rounds", "each"] else key:
        below = list[Any]()
        for kind in kinds:
            if get_origin(kind) in (list, dict):
                below.append(get_args(kind)[-1])
            elif isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
                below.append(kind.model_fields[part].annotation)
        kinds = tuple(one for kind in below for one in _members(kind))
    return kinds


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, without annotations: `list[str] | PlaceName` becomes `(list[str], str)`."""
    union = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(get_args(one)[0] if get_origin(one) is Annotated else one for one in union)


def _item(values: list[Any], number: str, key: str) -> Any:
    """Return the item of a list, such as a round, by its index from 0."""
    if not number.isdigit() or int(number) >= len(values):
        raise UserError(f"Unknown config key {key}: the list has {len(values)} items.", "Count the items from 0.")
    return values[int(number)]


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"] if part != "str" and "[" not in str(part))
    if problem["type"] == "extra_forbidden":
        return f"Unknown config key {key}. {_nearest(key)}"
    if problem["type"] == "missing":
        return f"{key} is missing: set it in the file or as {key}=VALUE."
    message: str = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):
        return message  # the message of a whole section names its keys
    # Semtag's own messages quote the value where it may be shown.
    return f"{key}: {message}" if problem["type"] == "value_error" else f"{key}: {message} (got {problem['input']!r})"


def _nearest(key: str) -> str:
    known = list(known_keys())
    # A right name in the wrong section is the likelier mistake, so it goes before a close spelling.
    same_name = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    close = same_name or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return f"Did you mean {close[0]}?" if close else f"Sections: {', '.join(Config.model_fields)}."
