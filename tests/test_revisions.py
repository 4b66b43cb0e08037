"""A revision that is set reaches all that load a model or a dataset of a hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.small_models import build_tokenizer, save_random_llama
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config, Data
from semtag.generation.prompts import load_tokenizer
from semtag.generation.readers import read_rows
from semtag.plan import check_model
from semtag.store.layout import Step
from semtag.store.locations import is_hub_name, local_folder
from semtag.store.rounds import base_of, start_of
from semtag.store.run_dir import RunDir, result_settings
from tests.conftest import ROOT

DEMO = ROOT / "configs" / "demo.yaml"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of huggingface_hub with two revisions of a model, whose tokenizers differ; no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--me--tiny"
    for revision, words in (("v1", ["mill"]), ("refs/pr/2", ["mill", "grain", "flour"])):
        commit = f"{len(words)}" * 40
        save_random_llama(model / "snapshots" / commit, build_tokenizer([" ".join(words)] * 9))
        (model / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
        (model / "refs" / revision).write_text(commit)
    return tmp_path


def config_of(*overrides: str) -> Config:
    return load_config(DEMO, ["model.base=me/tiny", *overrides])


def test_a_model_of_a_revision_is_that_one_for_all_that_load_it(hub: Path) -> None:
    sizes = []
    for revision in ("v1", "refs/pr/2"):
        config = config_of(f"model.revision={revision}")
        name = start_of(RunDir(hub / "run"), config, 1)
        assert name == base_of(config) == f"me/tiny@{revision}" and is_hub_name(name)
        sizes.append(len(load_tokenizer(name, config.model)))
        folder = Path(local_folder(name))
        assert folder.parent == hub / "models--me--tiny" / "snapshots" and (folder / "model.safetensors").exists()
    assert sizes[0] < sizes[1]
    assert base_of(config_of()) == "me/tiny" == local_folder("me/tiny")


def test_a_revision_that_is_not_there_is_named(hub: Path) -> None:
    with pytest.raises(UserError, match=r"no revision v3 of me/tiny(.|\n)*model\.revision"):
        local_folder("me/tiny@v3")


def test_a_revision_of_a_folder_is_refused(model_path: str) -> None:
    with pytest.raises(UserError, match=r"v1 needs a model on a hub, and .* is not on a hub"):
        check_model(config_of(f"model.base={model_path}", "model.revision=v1"))


def test_another_revision_is_another_run() -> None:
    def values(step: str, *overrides: str) -> dict[str, Any]:
        return result_settings(config_of(*overrides), Step(step, int(step == "rank")))

    assert values("rank") != values("rank", "model.revision=v1")
    assert values("texts") != values("texts", "data.revision=v1")


def test_another_template_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    template, found = tmp_path / "own.jinja", []
    for text in ("{{ messages }}", "{{ messages[0] }}"):
        template.write_text(text)
        found.append(result_settings(config_of(f"model.chat_template={template}"), Step("rank", 1)))
    assert found[0] != found[1]


def test_other_examples_in_the_same_file_are_another_run(tmp_path: Path) -> None:
    examples, found = tmp_path / "own.jsonl", []
    for text in ("a mill", "a loom"):
        examples.write_text(json.dumps({"text": text, "answer": "[a]"}) + "\n")
        found.append(result_settings(config_of(f"prompt.examples={examples}"), Step("rank", 1)))
    assert found[0] != found[1]


def test_a_dataset_is_read_of_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(*names: Any, **options: Any) -> Any:
        asked.update(options, names=names)
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(UserError, match="Cannot read the dataset"):
        list(read_rows(Data(path="squad_v2", subset="s", split="validation", revision="v1")))
    assert asked == {"names": ("squad_v2", "s"), "split": "validation", "revision": "v1", "streaming": True}


def test_an_adapter_says_which_revision_it_is_for(hub: Path) -> None:
    from peft import get_peft_model

    from semtag.training.worker import load_base, lora_config

    training = config_of().training
    loaded = load_base(local_folder("me/tiny@v1"), training)
    loaded.name_or_path = "me/tiny"
    written = get_peft_model(loaded, lora_config(training, "v1")).peft_config["default"]
    assert (written.base_model_name_or_path, written.revision) == ("me/tiny", "v1")
