"""What is refused before anything is sampled."""

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from benchmarks.small_models import save_random_llama
from semtag.cluster.progress import Progress
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import Config
from semtag.generation.preflight import check_model
from semtag.generation.prompts import load_tokenizer
from semtag.scoring.rank import rank
from semtag.store.run_dir import RunDir
from tests.conftest import ROOT

TURNS = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + END }}{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
THINKS = "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
REFUSES = "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}"


@pytest.fixture
def model(tokenizer: Any, tmp_path: Path) -> str:
    return save_random_llama(tmp_path / "model", tokenizer)


def config_of(tmp_path: Path, template: str | None = None) -> Config:
    if template is None:
        return load_config(ROOT / "configs" / "demo.yaml")
    (tmp_path / "own.jinja").write_text(template)
    return load_config(ROOT / "configs" / "demo.yaml", [f"model.chat_template={tmp_path / 'own.jinja'}"])


def turns(end: str) -> str:
    return TURNS.replace("END", repr(end))


@pytest.mark.parametrize("template", [None, turns("</s>") + ASKS, turns("</s>") + THINKS, turns("</s>\n")])
def test_templates_that_end_answers_are_taken(template: str | None, model: str, tmp_path: Path) -> None:
    assert check_model(model, config_of(tmp_path, template)).eos_token == "</s>"


@pytest.mark.parametrize("template", [turns("") + ASKS, turns("\n"), "</s>", REFUSES])
def test_a_template_that_ends_no_answer_is_refused(template: str, model: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, template)
    with pytest.raises(UserError, match="ends no answer"):
        check_model(model, config)
    check_model(model, config, trained=False)  # a tagger that is asked alone is stopped by its engine


def test_an_end_of_the_turn_that_is_not_the_end_token_is_taken(model: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, turns("<|user|>"))
    with pytest.raises(UserError, match="ends no answer"):
        check_model(model, config)
    tokenizer = load_tokenizer(model, config.model)
    GenerationConfig(eos_token_id=[2, tokenizer.convert_tokens_to_ids("<|user|>")]).save_pretrained(model)
    check_model(model, config)


def test_a_tokenizer_larger_than_its_model_is_refused_before_an_engine_starts(model: str, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    grown = load_tokenizer(model, config.model)
    grown.add_tokens(["<beyond>"])
    grown.save_pretrained(model)
    with pytest.raises(UserError, match="<beyond>"):
        check_model(model, config)
    check_model(model, config, served=False)  # replay has no engine


def test_control_tokens_that_no_text_can_spell_may_lie_beyond_the_model(model: str, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    grown = load_tokenizer(model, config.model)
    grown.add_special_tokens({"additional_special_tokens": ["<image>"]})
    grown.save_pretrained(model)
    check_model(model, config)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No tokenizer at /nowhere"):
        check_model("/nowhere", config_of(tmp_path))


def test_a_window_that_the_model_cannot_read_is_refused_wherever_it_is_served(model: str) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", ["sampling.max_model_len=9999"])
    with pytest.raises(UserError, match=r"max_model_len 9999 is more than .* can read"):
        check_model(model, config, trained=False)
    check_model(model, config, served=False)


def test_a_ranking_begins_with_what_its_base_model_lacks(model: str, tmp_path: Path) -> None:
    overrides = [f"run.root={tmp_path}", f"model.base={model}", "training.lora.target_modules=[q_proj,v_porj]"]
    config = load_config(ROOT / "configs" / "demo.yaml", overrides)
    run = RunDir.of(config)
    run.create()
    run.start(config)
    with Progress("rank", "texts") as progress, pytest.raises(UserError, match="v_porj is no layer"):
        rank(run, config.of_round(1), progress, 1)
