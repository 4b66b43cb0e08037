"""Lists that share their prompt: the same log-probabilities as by themselves, and TRL's own losses for pairs."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GptOssConfig, Lfm2Config, MistralConfig
from trl import DPOTrainer

from semtag.configs.training import Training
from semtag.training.cpu_kernels import PACKED
from semtag.training.packing import MOST_PADDING, ListCollator, build_sequence, dense_mask, pack_rows, packed_mask
from semtag.training.tokenized import REFERENCES
from semtag.training.trainer import SHARING_TOLERANCES, PreferenceTrainer, trainer_arguments
from semtag.training.worker import load_base, lora_config


def test_a_list_by_hand() -> None:
    laid = build_sequence([1, 2, 3], [[4, 5, 9], [6, 9]])
    assert laid.ids == [1, 2, 3, 4, 5, 3, 6]
    assert laid.positions == [0, 1, 2, 3, 4, 2, 3]
    assert laid.completions == [0, 0, 1, 1, 1, 2, 2]
    assert laid.labels == [-100, -100, 4, 5, 9, 6, 9]


def test_who_sees_whom() -> None:
    row = torch.tensor([[0, 0, 0, 1, -1]]), torch.tensor([[0, 1, 2, 0, 0]])
    mask = dense_mask(*row, torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert set(mask.flatten().tolist()) == {0, -torch.inf}
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert (packed_mask(*row)[0, 0] == 0).int().tolist()[4] == [0] * 5  # the row ends before its padding


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 60))
def test_rows_hold_each_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = pack_rows(lengths, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(len(row) == 1 or sum(lengths[index] for index in row) <= budget for row in rows)


def test_lists_of_all_lengths_leave_little_padding() -> None:
    rng, shares = random.Random(0), []
    for _ in range(100):
        lengths = [rng.randint(150, 320) for _ in range(8)]
        rows = pack_rows(lengths, Training().row_tokens)
        longest = max(sum(lengths[index] for index in row) for row in rows)
        shares.append(1 - sum(lengths) / (len(rows) * longest))
    assert sum(shares) / len(shares) < MOST_PADDING


def test_rows_are_as_many_as_leave_little_padding() -> None:
    assert pack_rows([5, 3, 2, 4], 7) == [[0, 2], [3, 1]]
    assert pack_rows([3, 3, 3, 3], 12) == [[0], [1], [2], [3]]
    assert pack_rows([9, 1], 4) == [[0], [1]]
    assert pack_rows([], 4) == []


@pytest.mark.parametrize(
    ("budget", "attention", "dtype", "tolerance"),
    [
        (1, PACKED, "float32", 1e-4),
        (10_000, PACKED, "float32", 1e-4),
        (1, PACKED, "bfloat16", 0.02),  # nats a token
        (1, "sdpa", "float32", 1e-4),  # as on a GPU
        (10_000, "sdpa", "float32", 1e-4),
        (10_000, "sdpa", "bfloat16", 0.02),
        (10_000, "eager", "float32", 1e-4),
        (1, "eager", "bfloat16", 0.02),
    ],
)
def test_log_probabilities_are_those_of_each_completion_alone(
    model_path: str, tokenizer: Any, pairs: Dataset, budget: int, attention: str, dtype: Any, tolerance: float,
    tmp_path: Path,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def tokens(least: int, most: int) -> list[int]:
        length = int(torch.randint(least, most, (1,), generator=generator))
        return torch.randint(5, len(tokenizer), (length,), generator=generator).tolist()

    examples = [
        {"prompt_ids": tokens(1, 30), "completion_ids": [tokens(1, 9) for _ in range(k)]}
        | {"row": 0, "scores": [0.0] * k}
        for k in (3, 1, 8, 2)
    ]
    trainer = list_trainer(model_path, tokenizer, pairs, tmp_path, Training(report_to=[], dtype=dtype))
    assert trainer.packed
    if attention != PACKED:
        trainer.packed = False
        trainer.model.get_base_model().set_attn_implementation(attention)
    plain = load_base(model_path, Training())
    batch = ListCollator(0, budget)(examples)
    assert batch["input_ids"].shape[1] % 8 == 0
    with torch.no_grad():
        found = trainer.log_probs(trainer.model, batch)
        for b, example in enumerate(examples):
            for k, completion in enumerate(example["completion_ids"]):
                prompt = example["prompt_ids"]
                logits = plain(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
                alone = sum(logits[len(prompt) - 1 + n, token] for n, token in enumerate(completion))
                assert found[b, k].item() == pytest.approx(float(alone), abs=tolerance * len(completion))
    assert (found[~batch["present"]] == 0).all()


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
    rows = Dataset.from_list([pair | dict.fromkeys(REFERENCES) for pair in pairs])
    return PreferenceTrainer(training, train_dataset=rows, **parts(model_path, tokenizer, out, training))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.01)])
def test_likelihood_is_the_cross_entropy_of_transformers(
    model_path: str, tokenizer: Any, pairs: Dataset, dtype: Any, tolerance: float, tmp_path: Path
) -> None:
    training = Training(loss="likelihood", batch_size=4, max_steps=1, report_to=[], dtype=dtype)
    trainer = list_trainer(model_path, tokenizer, pairs, tmp_path, training)
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(4)])
    found = trainer.compute_loss(trainer.model, batch)
    plain, loss, tokens = load_base(model_path, Training()), 0.0, 0
    with torch.no_grad():
        for example in list(trainer.train_dataset)[:4]:
            for completion in example["completion_ids"]:
                ids = torch.tensor([example["prompt_ids"] + completion])
                labels = ids.clone()
                labels[:, : len(example["prompt_ids"])] = -100
                loss += len(completion) * plain(ids, labels=labels).loss.item()
                tokens += len(completion)
    assert found.item() == pytest.approx(loss / tokens, rel=tolerance)


def test_a_model_with_a_convolution_trains_on_separate_sequences_as_in_trl(
    tokenizer: Any, pairs: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = Lfm2Config(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, layer_types=["conv", "full_attention"],
                        initializer_range=0.2, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    training = Training(beta=0.5, learning_rate=1e-3, max_steps=5, batch_size=4, report_to=[])
    ours = list_trainer(str(tmp_path / "model"), tokenizer, pairs, tmp_path / "ours", training)
    assert ours._sharing_gap() > SHARING_TOLERANCES["float32"]
    said: list[str] = []
    ours.stop_sharing_prompts_if_unsafe(said.append)
    assert said == [
        "completions do not share prompts, which makes training slower: the model has layers of the kind conv"
    ]
    assert not ours.data_collator.shared
    curve = curve_of(ours)
    theirs = parts(str(tmp_path / "model"), tokenizer, tmp_path / "theirs", training)
    theirs["args"].loss_type = ["ipo"]
    assert curve == pytest.approx(curve_of(DPOTrainer(train_dataset=pairs, **theirs)), abs=1e-4)


def test_a_model_that_attends_eagerly_trains_on_separate_sequences(
    tokenizer: Any, pairs: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = GptOssConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                          num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4,
                          num_experts_per_tok=2, initializer_range=0.2, sliding_window=1024,
                          eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    trainer = list_trainer(str(tmp_path / "model"), tokenizer, pairs, tmp_path, Training(report_to=[]))
    examples, said = [trainer.train_dataset[place] for place in range(3)], list[str]()
    together = trainer.reference(examples)
    trainer.stop_sharing_prompts_if_unsafe(said.append)
    assert "the model attends by eager, and not by sdpa" in said[0]
    assert trainer.reference(examples) == pytest.approx(together, abs=1e-4)


def test_windows_shorter_than_a_list_need_separate_sequences(tokenizer: Any, pairs: Dataset, tmp_path: Path) -> None:
    config = MistralConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, sliding_window=512)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    for longest, shared in ((512, True), (513, False)):
        training = Training(max_length=longest, report_to=[])
        trainer = list_trainer(str(tmp_path / "model"), tokenizer, pairs, tmp_path, training)
        trainer.stop_sharing_prompts_if_unsafe(print)
        assert trainer.data_collator.shared == shared


def curve_of(trainer: DPOTrainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("loss", "likelihood", "dtype", "curve", "weights"),  # differences of losses, and of weights in parts of them
    [
        ("ipo", 0.0, "float32", 1e-4, 1e-5),
        ("ipo", 3.0, "float32", 1e-4, 1e-5),
        ("sigmoid", 0.0, "float32", 1e-4, 1e-5),
        ("ipo", 3.0, "bfloat16", 1e-2, 2e-2),
    ],
)
def test_pairs_train_as_in_trl_in_float32(
    loss: str, likelihood: float, dtype: Any, curve: float, weights: float, model_path: str, tokenizer: Any,
    pairs: Dataset, tmp_path: Path,
) -> None:  # fmt: skip
    training = Training(
        loss=loss, beta=0.5, learning_rate=1e-3, max_steps=20, batch_size=4, report_to=[],
        likelihood_weight=likelihood,
    )  # fmt: skip
    ours = list_trainer(model_path, tokenizer, pairs, tmp_path / "ours", training.model_copy(update={"dtype": dtype}))
    theirs = parts(model_path, tokenizer, tmp_path / "theirs", training)
    theirs["args"].loss_type = [loss, "sft"] if likelihood else [loss]
    theirs["args"].loss_weights = [1.0, likelihood] if likelihood else None
    curves, learned = [], []
    for trainer in (ours, DPOTrainer(train_dataset=pairs, **theirs)):
        curves.append(curve_of(trainer))
        learned.append({name: w.detach() for name, w in trainer.model.named_parameters() if "lora_" in name})
    assert len(curves[0]) == 20
    assert curves[0] == pytest.approx(curves[1], abs=curve)
    for name, weight in learned[0].items():
        assert float((weight - learned[1][name]).norm() / weight.norm()) < weights, name
