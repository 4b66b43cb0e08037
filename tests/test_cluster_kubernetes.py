"""The KubeRay files: against their schema, and what they may never do."""

import copy
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster_files import KUBERNETES, documents, groups, job_command, named, pods, ray_spec, walk
from tests.conftest import ROOT

STORAGE = ROOT / "cluster" / "kubernetes" / "storage.yaml"
SCHEMA = yaml.safe_load((ROOT / "tests" / "schemas" / "kubernetes.yaml").read_text())


def problems(document: dict[str, Any]) -> list[str]:
    """What the schema of the document's kind has against it."""
    schema = {"$ref": f"#/$defs/{document['kind']}", "$defs": SCHEMA["$defs"]}
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_files_fit_their_schema(path: Path) -> None:
    assert [problems(document) for document in documents(path)] == [[]] * len(documents(path))


def test_an_unknown_field_anywhere_is_refused() -> None:
    job = named("rayjob.yaml")
    free = {"rayStartParams", "resources", "requests", "limits", "nodeSelector"}  # keys there are names, not fields
    objects = [path for path, value in walk(job) if isinstance(value, dict) and path[-1:] and path[-1] not in free]
    assert len(objects) > 50
    for path in objects:
        wrong = copy.deepcopy(job)
        place: Any = wrong
        for key in path:
            place = place[key]
        place["notAField"] = "x"
        assert problems(wrong), path


@pytest.mark.parametrize(
    ("key", "value"), [("minReplicas", -1), ("maxReplicas", "18"), ("groupName", "Spot_GPUs"), ("template", None)]
)
def test_a_wrong_value_is_refused(key: str, value: Any) -> None:
    cluster = named("raycluster.yaml")
    cluster["spec"]["workerGroupSpecs"][0][key] = value
    assert problems(cluster)


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder of the operator's CRDs")
@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberay_files_fit_the_operators_own_schema(name: str) -> None:
    definition = yaml.safe_load((Path(os.environ["KUBERAY_CRDS"]) / f"ray.io_{name}s.yaml").read_text())
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    for _, part in walk(schema):
        if isinstance(part, dict) and part.get("x-kubernetes-int-or-string"):
            part.pop("type", None)
        # Kubernetes drops a field that it does not know; here it is an error.
        if isinstance(part, dict) and part.get("type") == "object" and isinstance(part.get("properties"), dict):
            part.setdefault("additionalProperties", False)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(named(f"{name}.yaml"), schema)
    wrong = named(f"{name}.yaml")
    ray_spec(wrong)["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        jsonschema.validate(wrong, schema)


def test_job_and_cluster_are_the_same_cluster() -> None:
    assert ray_spec(named("rayjob.yaml")) == ray_spec(named("raycluster.yaml"))


@pytest.mark.parametrize(("status", "ended"), [(0, 0), (1, 1), (2, 0), (130, 1), (137, 1)])
def test_what_the_user_must_mend_is_not_tried_again(status: int, ended: int, tmp_path: Path) -> None:
    (tmp_path / "semtag").write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\nexit {status}\n')
    (tmp_path / "semtag").chmod(0o755)
    # The submitter's shell takes the words apart, Ray joins them, and a shell on the cluster runs them.
    words = shlex.split(named("rayjob.yaml")["spec"]["entrypoint"])
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(shlex.join(words), shell=True, env=path, check=False).returncode == ended
    assert (tmp_path / "asked").read_text().split() == job_command()[1:]


def test_no_pod_may_be_root_or_become_it() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_ray_pods_share_memory_storage_and_token() -> None:
    for pod in pods()[:-1]:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        claims = {claim["metadata"]["name"] for claim in documents(STORAGE)}
        assert {
            v["persistentVolumeClaim"]["claimName"] for v in mounts.values() if "persistentVolumeClaim" in v
        } == claims
        variables = {variable["name"]: variable for variable in pod["containers"][0]["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        secret = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": ray_spec(named("rayjob.yaml"))["authOptions"]["secretName"], "key": "auth_token"}


def test_nothing_is_offered_outside_the_cluster() -> None:
    for path in KUBERNETES:
        for place, value in ((p, v) for document in documents(path) for p, v in walk(document)):
            assert value not in ("NodePort", "LoadBalancer"), place
            assert not {"hostNetwork", "hostPort", "hostPath", "hostPID"} & set(map(str, place)), place
    assert ray_spec(named("rayjob.yaml"))["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_only_the_spot_group_is_on_spot_nodes() -> None:
    def spot(pod: dict[str, Any]) -> bool:
        return "cloud.google.com/gke-spot" in str(pod.get("nodeSelector")) + str(pod.get("tolerations"))

    assert [name for name, group in groups().items() if spot(group["template"]["spec"])] == ["spot"]
    assert not spot(ray_spec(named("rayjob.yaml"))["headGroupSpec"]["template"]["spec"])
    assert "nvidia.com/gpu" not in str(ray_spec(named("rayjob.yaml"))["headGroupSpec"])
