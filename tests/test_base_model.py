"""What a base model lacks is said before anything is sampled."""

import json
from pathlib import Path
from typing import Any

import pytest

from semtag.cli import main
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.generation.preflight import check_base
from tests.conftest import ROOT

DEMO = str(ROOT / "configs" / "demo.yaml")
TARGETS = "training.lora.target_modules"


def check(model: str, *overrides: str) -> None:
    check_base(model, load_config(DEMO, ["rounds.count=2", "rounds.each=[]", *overrides]))


@pytest.mark.parametrize(
    "targets",
    ["all-linear", "[q_proj,v_proj]", "[layers.0.self_attn.q_proj]", r".*\.(q|v)_proj", "[down_proj]"],
)
def test_layers_that_the_model_has_are_taken(targets: str, model_path: str) -> None:
    check(model_path, f"{TARGETS}={targets}")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("[q_proj,v_porj]", "v_porj is no layer of"),
        ("[proj]", "proj is no layer of"),
        ("[q_proj,lm_head]", "lm_head is a layer of the vocabulary"),
        ("[embed_tokens]", "embed_tokens is a layer of the vocabulary"),
        ("[norm]", "norm is no layer of"),
        ("q_proj", "q_proj is no layer of"),
        (".*(q_proj|lm_head)", "is a layer of the vocabulary"),
    ],
)
@pytest.mark.parametrize("key", [TARGETS, "rounds.each.1.training.lora.target_modules"])
def test_layers_that_cannot_be_adapted_are_named(targets: str, said: str, key: str, model_path: str) -> None:
    with pytest.raises(UserError, match=r"(?s)target_modules.*Name some of down_proj, gate_proj") as caught:
        check(model_path, "rounds.each=[{}, {training: {lora: {rank: 2}}}]", f"{key}={targets}")
    assert said in str(caught.value)


def test_a_window_longer_than_the_model_s_is_named(model_path: str, tmp_path: Path) -> None:
    check(model_path, "sampling.max_model_len=2048")
    with pytest.raises(UserError, match=r"sampling\.max_model_len 2049 is more than .* can read: 2048 tokens"):
        check(model_path, "sampling.max_model_len=2049")
    known = json.loads((Path(model_path) / "config.json").read_text())
    scaled = known | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    (tmp_path / "config.json").write_text(json.dumps(scaled))
    check(str(tmp_path), "sampling.max_model_len=8192")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"{TARGETS}=[q_proj,v_porj]", "v_porj is no layer of"),
        ("sampling.max_model_len=9999", "can read: 2048 tokens"),
        ("training.report_to=[tensorboard,dvclive]", "Do `pip install dvclive`"),
        ("training.report_to=[tensorbord]", "'tensorbord' is no tracker"),
        ("model.base={pickled}", "holds no weights in safetensors"),
    ],
)
def test_a_plan_that_could_not_be_kept_is_refused(
    override: str, said: str, model_path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    own: list[Any] = [f"run.root={tmp_path}", f"model.base={model_path}", override.format(pickled=tmp_path)]
    assert main(["run", DEMO, *own, "--dry-run"]) == 2
    assert said in capfd.readouterr().err
