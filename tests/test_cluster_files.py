"""The files for clusters together: their commands, configs, sizes, versions and secrets."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from semtag.cli import build_parser
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from tests.cluster_files import (
    DOCS,
    KUBERNETES,
    LAUNCHER,
    PROJECT,
    SLURM,
    directives,
    documents,
    groups,
    job_command,
    launcher,
    named,
    pods,
    ray_spec,
    walk,
)
from tests.conftest import ROOT


def commands() -> list[list[str]]:
    """Every `semtag` command in the files and their docs, in words."""
    text = DOCS.read_text().replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    in_docs = [
        shlex.split(found, comments=True) for found in re.findall(r"\bsemtag ((?:run|verify|rank)\b[^\n'|]*)", blocks)
    ]
    in_slurm = re.findall(r"sbatch (?:-\S+ )*cluster/slurm\.sh ([^\n]*)", blocks + "\n" + SLURM.read_text())
    return [job_command()[1:], *in_docs, *(["run", *shlex.split(found)] for found in in_slurm)]


def test_commands_parse_and_their_configs_load() -> None:
    found = commands()
    assert len(found) >= 4
    for words in found:
        arguments = build_parser().parse_args(words)
        if arguments.command != "verify":
            load_config(ROOT / arguments.config, arguments.overrides)


def millions() -> Config:
    job = build_parser().parse_args(job_command()[1:])
    return load_config(ROOT / job.config, job.overrides)


def test_the_job_finds_its_cluster_and_its_storage() -> None:
    config = millions()
    assert config.cluster.address == "auto"
    mounts = {mount["mountPath"] for mount in pods()[0]["containers"][0]["volumeMounts"]}
    assert {config.run.root, config.data.path} <= mounts
    volumes = [option for option in launcher()["docker"]["run_options"] if option.startswith("-v")]
    assert [option.split(":")[1] for option in volumes] == [config.run.root, config.data.path]


def test_each_cluster_can_grow_to_what_the_config_asks_for() -> None:
    config = millions()
    gpus = math.ceil(
        config.sampling.actors * config.sampling.gpus_per_actor + config.scoring.actors * config.scoring.gpus_per_actor
    )
    spot = groups()["spot"]
    of_a_pod = int(spot["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert spot["maxReplicas"] * of_a_pod >= gpus
    types = launcher()["available_node_types"]
    assert types["spot"]["max_workers"] * types["spot"]["resources"]["GPU"] >= gpus
    assert launcher()["max_workers"] >= types["spot"]["max_workers"] + types["driver"]["max_workers"]
    slurm = directives(SLURM.read_text())
    assert int(slurm["nodes"] or 0) * int(slurm["gpus-per-node"] or 0) >= gpus


def test_a_group_has_what_the_driver_asks_for() -> None:
    spec = named("rayjob.yaml")["spec"]
    wanted = json.loads(spec["entrypointResources"])
    driver = groups()["driver"]
    assert {name: float(driver["resources"][name]) for name in wanted} == wanted
    limits = driver["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= spec["entrypointNumGpus"]
    assert launcher()["available_node_types"]["driver"]["resources"].items() >= wanted.items()


def test_image_and_ray_are_of_the_projects_versions() -> None:
    (ray_version,) = [d.split("==")[1] for d in PROJECT["dependencies"] if d.startswith("ray[")]
    assert ray_spec(named("rayjob.yaml"))["rayVersion"] == ray_version
    assert f"FROM rayproject/ray:{ray_version}-py311\n" in (ROOT / "Dockerfile").read_text()
    images = {container["image"] for pod in pods() for container in pod["containers"]}
    assert images | {launcher()["docker"]["image"]} == {f"ghcr.io/example/semtag:{PROJECT['version']}"}


def test_the_image_holds_every_room() -> None:
    links = [path for path in (ROOT / "semtag").iterdir() if path.is_symlink()]
    rooms = {path.resolve().relative_to(ROOT).as_posix() for path in links} | {"semtag"}
    copied = re.findall(r"^COPY \S+ (\S+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(rooms)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == {*rooms, "pyproject.toml", "README.md", "LICENSE", "requirements/packaged.txt"}


def test_every_option_of_ray_start_exists() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    text = LAUNCHER.read_text() + SLURM.read_text()
    used = {option for line in re.findall(r"ray start ([^\n;&]*(?:\n    --[^\n]*)*)", text) for option in options(line)}
    assert {"--head", "--address", "--dashboard-host"} <= used <= known


def options(line: str) -> set[str]:
    return set(re.findall(r"(?<!\S)--[a-z-]+", line))


SHAPED = re.compile(r"hf_\w{20,}|AKIA[0-9A-Z]{16}|gh[pos]_\w{20,}|-----BEGIN|\b[0-9a-fA-F]{32,}\b")
SECRET_NAME = r"[A-Z_]*(?:TOKEN|SECRET|PASSWORD|_KEY)[A-Z_]*"
ASSIGNED = re.compile(rf"\b{SECRET_NAME}=(?![\"']?\$)\S+")


def secrets(text: str) -> list[str]:
    """What looks like a credential, and what is assigned to a name of one without being looked up."""
    return SHAPED.findall(text) + ASSIGNED.findall(text)


def written_out(document: Any) -> list[Any]:
    """Environment variables named like a credential that do not come from a Secret, and Secrets themselves."""
    values = [value for _, value in walk(document) if isinstance(value, dict)]
    names = [value for value in values if re.fullmatch(SECRET_NAME, str(value.get("name", "")))]
    return [value for value in names if set(value) != {"name", "valueFrom"}] + [
        value for value in values if value.get("kind") == "Secret"
    ]


@pytest.mark.parametrize("path", [*KUBERNETES, LAUNCHER, SLURM, DOCS, ROOT / "Dockerfile"], ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    assert secrets(path.read_text()) == []
    if path.suffix == ".yaml":
        assert written_out(documents(path)) == []


@pytest.mark.parametrize(
    "text",
    ["RAY_AUTH_TOKEN=letmein", "x: " + "0123456789abcdef" * 4, "value: hf_" + "a" * 34, "id: AKIA" + "A" * 16],
)
def test_a_secret_is_found(text: str) -> None:
    assert secrets(text)


def test_a_secret_in_a_pods_environment_is_found() -> None:
    job = named("rayjob.yaml")
    ray_spec(job)["headGroupSpec"]["template"]["spec"]["containers"][0]["env"][1] = {"name": "HF_TOKEN", "value": "x"}
    assert written_out(job)
    assert written_out({"kind": "Secret", "stringData": {"auth_token": "x"}})
