"""The weights that a round comes to."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from semtag.training.merge import merge

ODD = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": [2, 3]}


@pytest.fixture
def adapter(model_path: str, tokenizer: Any, tmp_path: Path) -> Path:
    """An adapter of the small model, as the training step leaves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapter"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_path), LoraConfig(target_modules="all-linear"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    return folder


def test_a_base_of_odd_generation_settings_is_merged_and_keeps_them(
    model_path: str, adapter: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_path, base)
    (base / "generation_config.json").write_text(json.dumps(ODD))
    (base / "preprocessor_config.json").write_text("{}")  # of a model that also sees
    for number in range(2):  # as the base of the next round as well
        out = tmp_path / f"merged-{number}"
        out.mkdir()
        merge(str(base), str(adapter), out)
        assert (out / "preprocessor_config.json").read_text() == "{}"
        kept = json.loads((out / "generation_config.json").read_text())
        # What is the default already, such as to sample not, need not be said.
        assert {"do_sample": False} | {name: kept[name] for name in kept.keys() & ODD.keys()} == ODD
        base = out
