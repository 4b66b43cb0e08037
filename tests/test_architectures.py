"""Models that people use, in small and with random weights: their trainer reads what transformers reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM

from semtag.configs.training import Training
from semtag.training.trainer import PreferenceTrainer, trainer_arguments
from semtag.training.worker import beside_text, load_base, lora_config

SHAPE = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.2},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
VISION = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 28, "patch_size": 14},
}
# What a family has beside others: windows in some layers, scores and logits that are capped, norms of queries and keys.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "mistral": {"sliding_window": 512},
    "phi3": {},
    "gemma2": {"sliding_window": 512, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 512, "query_pre_attn_scalar": 16},
    "gemma3": {"sliding_window": 512, "query_pre_attn_scalar": 16},  # sees pictures as well
    "cohere": {"logit_scale": 0.5},
    "granite": {"logits_scaling": 2.0, "residual_multiplier": 0.5},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 512},
}


def tokens(seed: int, count: int) -> list[int]:
    return torch.randint(10, 200, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def ranked(place: int) -> dict[str, Any]:
    """A tokenised list of three completions of different lengths."""
    return {
        **{"row": place, "text_id": place, "prompt_ids": tokens(place, 17), "scores": [0.9, 0.5, 0.1], "gap": 0.8},
        **{"completion_ids": [tokens(place + 10 * n, 3 + n) for n in range(3)]},
        **{"sampled": [False] * 3, "reference": [float("nan")] * 3},
    }


def save(architecture: str, tokenizer: Any, folder: Path) -> str:
    torch.manual_seed(0)
    shape = SHAPE | ARCHITECTURES[architecture] | {"vocab_size": len(tokenizer)}
    if architecture == "gemma3":
        shape = {"text_config": shape, "vision_config": VISION}
    config = AutoConfig.for_model(architecture, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_those_of_transformers(architecture: str, tokenizer: Any, tmp_path: Path) -> None:
    base = save(architecture, tokenizer, tmp_path / "model")
    training = Training(max_steps=2, batch_size=2, max_length=256, learning_rate=1e-2, warmup=0, report_to=[])
    rows = [ranked(place) for place in range(4)]
    model = load_base(base, training)
    trainer = PreferenceTrainer(
        training,
        model=model,
        args=trainer_arguments(training, str(tmp_path), 0, on_gpu=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(training, excluded=beside_text(model)),
    )
    told: list[str] = []
    trainer.stop_sharing_prompts_if_unsafe(told.append)
    found = trainer.reference(rows)
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    for row, values in zip(rows, found, strict=True):
        for completion, value in zip(row["completion_ids"], values, strict=True):
            assert value == pytest.approx(alone(plain, row["prompt_ids"], completion), abs=1e-3)
    # Every adapter learns. The first ratios are zero, and the second step's are not.
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(25, abs=0.01)
    assert abs(losses[1] - losses[0]) > 0.02
    learned = [one.abs().max() for name, one in trainer.model.named_parameters() if "lora_B" in name]
    assert min(learned) > 0


def alone(model: Any, prompt: list[int], completion: list[int]) -> float:
    """The log-probability of a completion in a sequence of its own."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + n, token]) for n, token in enumerate(completion))
