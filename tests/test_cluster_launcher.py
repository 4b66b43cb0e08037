"""The file for Ray's cluster launcher, against Ray's own validator."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cluster_files import launcher


def validate_launcher(config: dict[str, Any]) -> None:
    # Ray's own check comes after it has filled in its defaults, so the file is held to the schema by itself, too.
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    jsonschema.validate(config, json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text()))
    validate_config(prepare_config(copy.deepcopy(config)))


def test_the_launcher_file_passes_rays_own_validator() -> None:
    validate_launcher(launcher())


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_worker": 3},
        {"max_workers": "many"},
        {"head_node_type": "nobody"},
        {"docker": {"imagee": "x"}},
        {"available_node_types": {"head": {"node_config": {}, "min_worker": 1}}},
        {"max_workers": 0, "available_node_types": {"head": {"node_config": {}, "resources": {}, "min_workers": 9}}},
    ],
    ids=str,
)
def test_a_wrong_launcher_file_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_launcher(launcher() | wrong)


def test_the_launcher_keeps_the_dashboard_on_loopback_and_asks_for_a_token() -> None:
    config = launcher()
    (head,) = [command for command in config["head_start_ray_commands"] if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    markets = {n: t["node_config"].get("InstanceMarketOptions") for n, t in config["available_node_types"].items()}
    assert {name for name, market in markets.items() if market == {"MarketType": "spot"}} == {"spot"}
