"""The files for clusters, read for the tests."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

KUBERNETES = sorted((ROOT / "cluster" / "kubernetes").glob("*.yaml"))
LAUNCHER = ROOT / "cluster" / "launcher.yaml"
SLURM = ROOT / "cluster" / "slurm.sh"
DOCS = ROOT / "docs" / "cluster.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def named(name: str) -> dict[str, Any]:
    (document,) = documents(ROOT / "cluster" / "kubernetes" / name)
    return document


def job_command() -> list[str]:
    """The words of the `semtag` command of rayjob.yaml."""
    shell = shlex.split(named("rayjob.yaml")["spec"]["entrypoint"])
    return shlex.split(shell[-1].split("||")[0])


def ray_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec.get("rayClusterSpec", spec)


def groups() -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in ray_spec(named("raycluster.yaml"))["workerGroupSpecs"]}


def launcher() -> dict[str, Any]:
    (config,) = documents(LAUNCHER)
    return config


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every (path, value) below a YAML value, itself included."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from walk(item, (*path, key))


def pods() -> list[dict[str, Any]]:
    job = named("rayjob.yaml")
    spec = ray_spec(job)
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    return [template["spec"] for template in [*templates, job["spec"]["submitterPodTemplate"]]]


def directives(script: str) -> dict[str, str | None]:
    """The #SBATCH options that Slurm would read: it stops at the first command."""
    found: dict[str, str | None] = {}
    for line in script.splitlines():
        if line and not line.startswith("#"):
            break
        if match := re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line):
            found[match[1]] = match[2]
    return found
