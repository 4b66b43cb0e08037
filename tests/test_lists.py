"""Lists that share their prompt: the same log-probabilities as by themselves, and TRL's own losses for pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig
from trl import DPOTrainer

from configs.errors import UserError
from configs.load import load_config
from configs.schema import Training
from generation.prompts import build_messages
from tests.conftest import ROOT
from training.demo_model import build_tokenizer
from training.launch import load_base, lora_config
from training.lists import ListCollator, into_rows, lay_out, may_see
from training.trainer import PreferenceTrainer, trainer_arguments

TEXTS = [
    f"The {thing} of {place} was built by {who}."
    for thing in ("bridge", "old mill", "castle", "harbour")
    for place in ("Lyon", "Turin", "Porto", "Ghent")
    for who in ("monks", "a guild", "the queen's men", "nobody")
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(TEXTS * 4, load_config(ROOT / "configs" / "demo.yaml", ["model.demo.vocabulary=400"]))


@pytest.fixture(scope="module")
def model_path(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    prompt = load_config(ROOT / "configs" / "demo.yaml").prompt

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return Dataset.from_list(
        [
            {
                "prompt": build_messages(text, prompt, True),
                "chosen": said(f"[{text.split()[1]}][{text.split()[-1]}]"),
                "rejected": said("[thing]" * (1 + place % 3)),
            }
            for place, text in enumerate(TEXTS)
        ]
    )


def test_a_list_by_hand() -> None:
    laid = lay_out([1, 2, 3], [[4, 5, 9], [6, 9]])
    assert laid.ids == [1, 2, 3, 4, 5, 3, 6]
    assert laid.positions == [0, 1, 2, 3, 4, 2, 3]
    assert laid.completions == [0, 0, 1, 1, 1, 2, 2]
    assert laid.labels == [-100, -100, 4, 5, 9, 6, 9]


def test_who_sees_whom() -> None:
    mask = may_see(torch.tensor([[0, 0, 0, 1, -1]]), torch.tensor([[0, 1, 2, 0, 0]]))
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_rows_hold_each_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = into_rows(lengths, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[index] for index in row) <= budget for row in rows)


@pytest.mark.parametrize("budget", [1, 10_000])
def test_log_probabilities_are_those_of_each_completion_alone(
    model_path: str, tokenizer: Any, pairs: Dataset, budget: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)

    def tokens(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most, (1,), generator=generator))
        return torch.randint(5, len(tokenizer), (length,), generator=generator).tolist()

    examples = [
        {"prompt_ids": tokens(1, 30), "completion_ids": [tokens(1, 9) for _ in range(k)], "scores": [0.0] * k}
        for k in (3, 1, 8, 2)
    ]
    trainer = list_trainer(model_path, tokenizer, pairs, tmp_path, Training(report_to=[]))
    batch = ListCollator(0, budget)(examples)
    with torch.no_grad():
        found = trainer.log_probs(trainer.model, batch)
        for b, example in enumerate(examples):
            for k, completion in enumerate(example["completion_ids"]):
                prompt = example["prompt_ids"]
                logits = trainer.model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
                alone = sum(logits[len(prompt) - 1 + n, token] for n, token in enumerate(completion))
                assert found[b, k].item() == pytest.approx(float(alone), abs=1e-4)
    assert (found[~batch["present"]] == 0).all()


def as_list(pair: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": pair["prompt"], "completions": [pair["chosen"], pair["rejected"]], "scores": [1.0, 0.0]}


def parts(model_path: str, tokenizer: Any, out: Path, training: Training) -> dict[str, Any]:
    """What both trainers get."""
    torch.manual_seed(0)
    return {
        "model": load_base(model_path, training),
        "args": trainer_arguments(training, str(out), 0, on_gpu=False),
        "processing_class": tokenizer,
        "peft_config": lora_config(training),
    }


def list_trainer(model_path: str, tokenizer: Any, pairs: Dataset, out: Path, training: Training) -> PreferenceTrainer:
    lists = Dataset.from_list([as_list(pair) for pair in pairs])
    return PreferenceTrainer(training, train_dataset=lists, **parts(model_path, tokenizer, out, training))


def test_a_model_that_heeds_no_mask_is_refused(
    model_path: str, tokenizer: Any, pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything_before(lists: torch.Tensor, completions: torch.Tensor) -> torch.Tensor:
        length = lists.shape[1]
        return torch.ones(len(lists), 1, length, length, dtype=torch.bool).tril()

    monkeypatch.setattr("training.trainer.may_see", everything_before)
    trainer = list_trainer(model_path, tokenizer, pairs, tmp_path, Training(report_to=[]))
    with pytest.raises(UserError, match="does not heed an attention mask"):
        trainer.train()


@pytest.mark.parametrize(("loss", "likelihood"), [("ipo", 0.0), ("ipo", 3.0), ("sigmoid", 0.0)])
def test_pairs_train_as_in_trl(
    loss: str, likelihood: float, model_path: str, tokenizer: Any, pairs: Dataset, tmp_path: Path
) -> None:
    training = Training(
        loss=loss, per_token=loss == "ipo", beta=0.5, learning_rate=1e-3, max_steps=20, batch_size=4, report_to=[],
        likelihood_weight=likelihood,
    )  # fmt: skip
    ours = list_trainer(model_path, tokenizer, pairs, tmp_path / "ours", training)
    theirs = parts(model_path, tokenizer, tmp_path / "theirs", training)
    theirs["args"].loss_type = [loss, "sft"] if likelihood else [loss]
    theirs["args"].loss_weights = [1.0, likelihood] if likelihood else None
    curves, weights = [], []
    for trainer in (ours, DPOTrainer(train_dataset=pairs, **theirs)):
        trainer.train()
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        weights.append({name: w.detach() for name, w in trainer.model.named_parameters() if "lora_" in name})
    assert len(curves[0]) == 20
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)
    for name, weight in weights[0].items():
        assert float((weight - weights[1][name]).norm() / weight.norm()) < 1e-5, name
