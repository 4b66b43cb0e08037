"""Lets vLLM's CPU kernels serve models whose attention heads are of a size that they lack.

A head padded with zeros computes what it did before: zeros add nothing to a score or a value, queries are scaled up
because the model will divide scores by the root of the wider head, and each pair that RoPE turns moves to the place of
the wider head that turns at its speed. Only small models have such heads, so the copy is small too.
"""

import atexit
import math
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from configs.errors import UserError

# Architectures whose attention is plain RoPE on q and k, with no norm per head.
_PLAIN = ("llama", "mistral", "qwen2")


def head_size(model_config: Any) -> int:
    """Features per attention head of a transformers configuration."""
    own = getattr(model_config, "head_dim", None)
    return int(own or model_config.hidden_size // model_config.num_attention_heads)


def served_size(size: int) -> int:
    """The smallest head size that vLLM's CPU kernels serve and that is a multiple of `size`; 0 where there is none."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    return min((s for s in CPUAttentionBackend.get_supported_head_sizes() if s % size == 0), default=0)


def widen_checkpoint(model: str, adapter: str | None) -> tuple[str, str | None]:
    """Paths of a model and a LoRA adapter that vLLM's CPU kernels serve: the given ones, or copies.

    Copies last as long as the process; the tokenizer stays where it is. Raises UserError where a model's heads are of
    an odd size and its attention is of a kind that is not known here.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    size = head_size(config)
    wide = served_size(size)
    if wide == size:
        return model, adapter
    if not wide or config.model_type not in _PLAIN:
        raise UserError(
            f"vLLM's CPU kernels serve no attention heads of {size} features, which {model} has.",
            "Take another model, or run on a GPU.",
        )
    out = Path(tempfile.mkdtemp(prefix="semtag-wide-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    _widen_model(model, wide, out / "model")
    return str(out / "model"), adapter and _widen_adapter(Path(adapter), size, wide, out / "adapter")


def _widen_model(model: str, wide: int, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    narrow = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    size, config = head_size(narrow.config), narrow.config
    config.head_dim = wide
    widened = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    widened.load_state_dict({name: _widen(name, tensor, size, wide) for name, tensor in narrow.state_dict().items()})
    widened.save_pretrained(out)


def _widen_adapter(adapter: Path, size: int, wide: int, out: Path) -> str:
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, out)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: _widen(name, tensor, size, wide) for name, tensor in weights.items()}, out / "adapter_model.safetensors"
    )
    return str(out)


def _widen(name: str, tensor: Any, size: int, wide: int) -> Any:
    """Pad a projection, its bias or its LoRA factor along the dimension that runs over heads; others stay."""
    found = re.search(r"\b([qkvo])_proj\.(weight|bias|lora_A\.weight|lora_B\.weight)$", name)
    if not found:
        return tensor
    projection, kind = found.groups()
    if projection == "o":  # reads the heads: [D, H * size], or A of [r, H * size]
        return _pad(tensor.T, size, wide, False).T.contiguous() if kind in ("weight", "lora_A.weight") else tensor
    if kind == "lora_A.weight":
        return tensor
    padded = _pad(tensor, size, wide, rotary=projection in "qk")
    return padded * math.sqrt(wide / size) if projection == "q" else padded


def _pad(tensor: Any, size: int, wide: int, rotary: bool) -> Any:
    """[H * size, ...] -> [H * wide, ...].

    RoPE turns the features i and i + size/2 of a head together, by theta^(-2i/size) radians a token.
    """
    import torch

    places = torch.arange(size)
    if rotary:
        places = places % (size // 2) * (wide // size) + places // (size // 2) * (wide // 2)
    heads = tensor.unflatten(0, (-1, size))
    padded = heads.new_zeros(len(heads), wide, *heads.shape[2:])
    padded[:, places] = heads
    return padded.flatten(0, 1)
