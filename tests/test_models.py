"""The families of docs/models.md, each with its real chat template: what is sampled is what is rendered."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trl
import yaml
from datasets import Dataset
from transformers import GenerationConfig

from benchmarks.small_models import build_tokenizer
from semtag.configs.errors import UserError
from semtag.configs.load import load_config
from semtag.configs.schema import SYSTEM, Config, Model, Prompt
from semtag.generation.preflight import check_model, template_warnings
from semtag.generation.prompts import Chat, end_tokens, load_tokenizer, with_variables
from semtag.training.tokenized import tokenized
from tests.conftest import ROOT, TEXTS, said

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
ANSWER = "[steam engine][governor][Élan]"
# Control tokens as templates spell them: <|im_end|>, <end_of_turn>, <turn|>, </think> and DeepSeek's wide ones.
CONTROL = re.compile(r"<[|\uff5c/]?[\w\u2581]+[|\uff5c]?>")


@dataclass(frozen=True)
class Family:
    """A line of the table."""

    name: str
    template: str
    variables: dict[str, Any]
    end: str
    found: str


def families() -> list[Family]:
    lines = re.findall(
        r"^\| .* \| (?:same|warned|refused) \|$", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE
    )
    return [*map(family_of, lines)]


def family_of(line: str) -> Family:
    cells = [cell.strip().strip("`") for cell in line.replace(r"\|", "\0").strip("|").split("|")]
    name, _, template, variables, end, found = cells
    return Family(name, template, yaml.safe_load(variables) or {}, end.replace("\0", "|"), found)


def model_of(family: Family, folder: Path) -> str:
    """A tokenizer with the family's template and control tokens. Its own end token never ends a turn by itself."""
    template = (TEMPLATES / f"{family.template}.jinja").read_text(encoding="utf-8")
    tokenizer = build_tokenizer([*TEXTS, SYSTEM])
    marks = {*CONTROL.findall(template), family.end} - {*tokenizer.get_vocab()}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(marks)})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(family.end)]
    GenerationConfig(eos_token_id=ends).save_pretrained(folder)
    return str(folder)


def config_of(model: str, variables: dict[str, Any]) -> Config:
    config = load_config(ROOT / "configs" / "demo.yaml", [f"model.base={model}"])
    return config.model_copy(update={"model": Model(base=model, chat_template_kwargs=variables)})


def trained(model: str, tokenizer: Any, drawn: list[int]) -> tuple[list[int], list[dict[str, Any]]]:
    """A prompt's tokens, and how two equal answers to it are trained: one was sampled, the other repaired."""
    chat = Chat(tokenizer, Prompt())
    messages = chat.messages("A governor keeps the speed of a steam engine.")
    prompt = chat.ids(messages)
    row = {
        **{"text_id": 1, "prompt": messages, "prompt_ids": prompt, "completions": [said(ANSWER), said(ANSWER)]},
        **{"scores": [1.0, 0.0], "sampled_ids": [drawn, None], "ref_logprobs": [-3.0, None]},
    }
    return prompt, tokenized(Dataset.from_list([row]), tokenizer, ends=end_tokens(tokenizer, model)).to_list()


FAMILIES = families()


def test_the_table_has_the_families_that_people_use() -> None:
    found = [family.found for family in FAMILIES]
    assert found.count("same") >= 10
    assert sum(not family.variables for family in FAMILIES if family.found == "same") >= 8


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.found != "refused"], ids=lambda one: one.template)
def test_sampled_and_rendered_answers_are_the_same_or_the_user_is_told(family: Family, tmp_path: Path) -> None:
    model = model_of(family, tmp_path)
    tokenizer = check_model(model, config_of(model, family.variables), served=False)
    drawn = [
        *tokenizer(ANSWER, add_special_tokens=False)["input_ids"],
        tokenizer.convert_tokens_to_ids(family.end),
    ]
    prompt, [row] = trained(model, tokenizer, drawn)
    assert row["prompt_ids"] == prompt
    assert row["completion_ids"] == [drawn, drawn]
    assert row["sampled"] == [True, False]
    # The whole conversation, as another trainer would render it, begins with the same tokens; else Semtag warns.
    messages = Chat(tokenizer, Prompt()).messages("A governor keeps the speed of a steam engine.")
    whole = tokenizer.apply_chat_template([*messages, *said(ANSWER)], return_dict=False)
    same = whole[: len(prompt) + len(drawn)] == prompt + drawn
    assert same == (family.found == "same") == (template_warnings(tokenizer) == [])


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.variables], ids=lambda one: one.template)
def test_a_missing_variable_is_named(family: Family, tmp_path: Path) -> None:
    [[name, value]] = family.variables.items()
    model = model_of(family, tmp_path)
    [warning] = template_warnings(load_tokenizer(model, Model(base=model)))
    assert re.search(rf"Set model\.chat_template_kwargs={{{name}: '?{str(value).lower()}'?}}\.", warning.lower(), re.I)


def test_a_family_that_ends_no_answer_is_refused(tmp_path: Path) -> None:
    [family] = [one for one in FAMILIES if one.found == "refused"]
    model = model_of(family, tmp_path)
    with pytest.raises(UserError, match="ends no answer"):
        check_model(model, config_of(model, family.variables), served=False)


def test_a_saved_tagger_keeps_its_variables(tmp_path: Path) -> None:
    [family] = [one for one in FAMILIES if one.template == "qwen3"]
    model = model_of(family, tmp_path / "model")
    of_run = Model(base=model, chat_template_kwargs=family.variables)
    load_tokenizer(model, of_run).save_pretrained(tmp_path / "tagger")
    served = load_tokenizer(tmp_path / "tagger", Model(base="another"))
    again = load_tokenizer(tmp_path / "tagger", of_run)
    prompts = [Chat(one, Prompt()).ids(said("?")) for one in (load_tokenizer(model, of_run), served, again)]
    assert (
        prompts[0]
        == prompts[1]
        == prompts[2]
        != Chat(load_tokenizer(model, Model(base=model)), Prompt()).ids(said("?"))
    )
    assert again.chat_template == served.chat_template


def test_variables_are_read_back_as_they_were_given(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"off": False, "number": 3, "share": 0.5, "words": "26 \"Jul\" {{ 'é' }}\n%}"}
    shown = "".join(f"<{{{{ {name} }}}}>" for name in values)
    monkeypatch.setattr(tokenizer, "chat_template", with_variables(shown, values))
    found = tokenizer.apply_chat_template(said("?"), tokenize=False)
    assert found == "".join(f"<{value}>" for value in values.values())


def test_an_override_gives_a_variable_its_type() -> None:
    start = ["model.chat_template_kwargs={enable_thinking: false, date_string: 26 Jul 2024}"]
    config = load_config(ROOT / "configs" / "demo.yaml", [*start, "model.chat_template_kwargs.effort=3"])
    found = config.model.chat_template_kwargs
    assert found == {"enable_thinking": False, "date_string": "26 Jul 2024", "effort": 3}
    single = load_config(ROOT / "configs" / "demo.yaml", ["model.chat_template_kwargs.enable_thinking=false"])
    assert single.model.chat_template_kwargs == {"enable_thinking": False}
    with pytest.raises(UserError, match="chat_template_kwargs"):
        load_config(ROOT / "configs" / "demo.yaml", ["model.chat_template_kwargs={no name: 1}"])


def test_a_base_model_that_reads_a_first_token_is_asked_with_it(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer([*TEXTS, SYSTEM])
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "without")
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    tokenizer.save_pretrained(tmp_path / "with")
    found = [load_tokenizer(tmp_path / name, Model(base="x")) for name in ("without", "with")]
    without, begun = (Chat(one, Prompt()).ids(said("A text.")) for one in found)
    assert begun == [tokenizer.bos_token_id, *without]
