"""Models with heads that vLLM's CPU kernels lack: the same figures from wider heads, and a run on such a model."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from configs.errors import UserError
from generation.widen_heads import served_size, widen_checkpoint
from tests.conftest import semtag, tiny_demo

SHAPE = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


def small_model(kind: str, heads: int, theta: float = 1e4) -> LlamaForCausalLM | Qwen2ForCausalLM:
    """A random model of two layers with two key-value heads; Qwen2 has biases on q, k and v."""
    torch.manual_seed(0)
    shape = SHAPE | {
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }
    model: LlamaForCausalLM | Qwen2ForCausalLM
    model = LlamaForCausalLM(LlamaConfig(**shape)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)  # far from zero, so that a wrong score would show
    return model.eval()


@pytest.mark.parametrize(("kind", "heads"), [("llama", 8), ("llama", 4), ("qwen2", 8)])
def test_wider_heads_give_the_same_logits(kind: str, heads: int, tmp_path: Path) -> None:
    model = small_model(kind, heads)
    model.save_pretrained(tmp_path / "narrow")
    served, adapter = widen_checkpoint(str(tmp_path / "narrow"), None)
    wide = AutoModelForCausalLM.from_pretrained(served).eval()
    assert adapter is None
    assert wide.config.head_dim == 32
    ids = torch.randint(0, 1000, (2, 90))
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_an_adapter_is_widened_with_its_model(tmp_path: Path) -> None:
    model = small_model("llama", 8)
    model.save_pretrained(tmp_path / "narrow")
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, 0, 0.3)
    tuned.save_pretrained(tmp_path / "tuned")
    served, adapter = widen_checkpoint(str(tmp_path / "narrow"), str(tmp_path / "tuned"))
    assert adapter is not None
    wide = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(served), adapter).eval()
    ids = torch.randint(0, 1000, (2, 90))
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, tuned.eval()(ids).logits, rtol=1e-4, atol=1e-4)


def test_heads_that_the_kernels_serve_stay(tmp_path: Path) -> None:
    small_model("llama", 2).save_pretrained(tmp_path / "model")
    assert widen_checkpoint(str(tmp_path / "model"), None) == (str(tmp_path / "model"), None)
    assert [served_size(size) for size in (8, 24, 48, 64, 100)] == [32, 96, 96, 64, 0]


def test_another_kind_of_attention_is_refused(tmp_path: Path) -> None:
    GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, num_attention_heads=8)).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="no attention heads of 8 features"):
        widen_checkpoint(str(tmp_path / "model"), None)


def test_a_model_that_cannot_tag_runs_through_and_pairs_say_why_not(finished_run: Path, tmp_path: Path) -> None:
    PreTrainedTokenizerFast.from_pretrained(finished_run / "base").save_pretrained(tmp_path / "model")
    small_model("llama", 8).save_pretrained(tmp_path / "model")
    arguments = tiny_demo(tmp_path, f"model.base={tmp_path / 'model'}", "data.limit=12")
    ranked = semtag("rank", *arguments)
    assert ranked.returncode == 0, ranked.stdout + ranked.stderr
    assert "0 valid" in ranked.stdout or "invalid" in ranked.stdout
    paired = semtag("pairs", *arguments)
    assert paired.returncode == 2
    assert "There is nothing to train on" in paired.stdout
    assert "Traceback" not in paired.stdout + paired.stderr
