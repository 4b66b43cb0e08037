"""Attention, LoRA layers and LM head for training on CPUs, with the results of transformers, PEFT and TRL.

These libraries are made for GPUs. On a CPU, sdpa is no faster in bfloat16 than in float32. PEFT computes adapters in
float32 whatever the model's dtype. TRL's head passes over the logits many times, although memory limits a CPU's
speed. In this module matrix products use the model's dtype. Their sums, softmaxes and log-probabilities use float32.
"""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl.trainer import utils

PACKED = "packed"  # name under which transformers registers the attention below
HEAD_TOKENS = 128  # number of tokens whose logits are in memory at a time
THEIR_HEAD = utils._ChunkedLogProbFunction


def lean_head_on_cpus() -> None:
    """Replace the head of TRL's trainers by the head below; GPUs keep TRL's head. The version of TRL is pinned."""
    utils._use_triton = lambda device: device.type in ("cpu", "cuda")  # only completions go through the head
    utils._ChunkedLogProbFunction = SimpleNamespace(apply=head_log_probs)


def lean_layers_on_cpus(model: Any, whole: bool) -> bool:
    """Give a model with an adapter the layers below; return whether the model's attention now takes packed rows.

    Attention is replaced only if it is sdpa. `whole` says that each process holds all weights. Else LoRA layers stay
    PEFT's, because libraries that share weights fetch the weights in PEFT's layers.
    """
    for layer in model.modules():
        if whole and isinstance(layer, Linear) and type(layer.get_base_layer()) is torch.nn.Linear:
            layer.forward = partial(lora_forward, layer, layer.forward)
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(PACKED, packed_attention)
        AttentionMaskInterface.register(PACKED, sdpa_mask)
        model.set_attn_implementation(PACKED)
    return bool(model.config._attn_implementation == PACKED)


def packed_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """Attend within rows joined one after another, [1, heads, T, size], by a mask of `packed_mask`.

    sdpa handles masks of other kinds. Scores are computed row by row, so that no memory is used for pairs of rows.
    """
    if attention_mask is None or attention_mask.dtype == torch.bool:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    attended = _Attention.apply(query[0], key[0], value[0], attention_mask.to(query.dtype), how["scaling"])
    return attended.transpose(0, 1).unsqueeze(0), None


class _Attention(torch.autograd.Function):
    """Attention of query [H, T, D] to key and value [G, T, D], G a divisor of H; heads of a group share their key.

    The backward pass computes the weights again, because stored weights take T times the memory of a layer's output.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        heads, tokens, _ = query.shape
        attended = query.new_empty(tokens, heads, value.shape[-1]).transpose(0, 1)
        for part, own in _rows_of(mask, heads // len(key)):
            weights = _weights(_by_group(query[:, part], key), key[:, part], own, scale)
            attended[:, part] = (weights @ value[:, part]).view(heads, -1, value.shape[-1])
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        return attended

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        to_query, to_key, to_value = (torch.empty_like(one) for one in (query, key, value))
        for part, own in _rows_of(mask, len(query) // len(key)):
            asked, grad = _by_group(query[:, part], key), _by_group(grads[0][:, part], key)
            weights = _weights(asked, key[:, part], own, ctx.scale)
            to_value[:, part] = weights.transpose(1, 2) @ grad
            # Gradient of the softmax: p (g - sum p g).
            to_weights = grad @ value[:, part].transpose(1, 2)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            to_query[:, part] = (to_scores @ key[:, part]).view(len(query), -1, query.shape[-1])
            to_key[:, part] = to_scores.transpose(1, 2) @ asked
        return to_query, to_key, to_value, None, None


def _rows_of(mask: Tensor, repeats: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield each row's slice of a packed mask, and the row's mask repeated for the heads of a group."""
    start = 0
    lengths = (mask.diagonal(dim1=2, dim2=3) == 0).sum(-1).flatten().tolist()  # each token sees itself, padding nothing
    for own, length in zip(mask[:, 0], lengths, strict=True):
        yield slice(start, start + length), own[None, :length, :length].repeat(1, repeats, 1)
        start += length


def _by_group(heads: Tensor, key: Tensor) -> Tensor:
    """Reshape [H, L, D] to [G, H / G L, D], the heads of a group one after another."""
    return heads.reshape(len(key), -1, heads.shape[-1])


def _weights(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scale).softmax(-1)


def lora_forward(layer: Linear, theirs: Callable[..., Tensor], inputs: Tensor) -> Tensor:
    """Return x W' + b + scale x A' B' of a PEFT layer; use PEFT's own pass if the adapter is off or merged."""
    if layer.disable_adapters or layer.merged:
        return theirs(inputs)
    (name,) = layer.active_adapters
    base, down, up = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
    return _Lora.apply(inputs, base.weight, base.bias, down.weight, up.weight, layer.scaling[name])


class _Lora(torch.autograd.Function):
    """x W' + b + scale x A' B' for x [..., I], a frozen W [O, I], b [O], A [R, I] and B [O, R]."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        down, up = down.to(flat.dtype), (scale * up).to(flat.dtype)
        narrow = flat @ down.t()
        ctx.save_for_backward(flat, weight, down, up, narrow)
        ctx.shape, ctx.scale = inputs.shape, scale
        wide = torch.nn.functional.linear(flat, weight, bias).addmm_(narrow, up.t())
        return wide.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, down, up, narrow = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        to_narrow, to_inputs = grad @ up, None
        if ctx.needs_input_grad[0]:
            to_inputs = (grad @ weight).addmm_(to_narrow, down).view(ctx.shape)
        return to_inputs, None, None, to_narrow.t() @ flat, ctx.scale * (grad.t() @ narrow), None


def head_log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *how: Any) -> tuple[Any, ...]:
    """Replace TRL's `ChunkedLogProbFunction.apply`: use `_Head` for a plain frozen head on a CPU, else TRL's head."""
    temperature, _, softcap, scale, outputs = how
    plain = bias is None and softcap is None and temperature == scale == 1 and tuple(outputs) == ("log_probs",)
    if plain and hidden.device.type == "cpu" and not weight.requires_grad:
        return _Head.apply(hidden, weight, targets), None, None, None, None
    return THEIR_HEAD.apply(hidden, weight, bias, targets, *how)


class _Head(torch.autograd.Function):
    """Log-probabilities [N] of targets [N] after hidden states [N, H] under a frozen head [V, H].

    The forward pass also computes the gradients W_target - sum_j p_j W_j, because the logits are then in memory.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        log_probs, slopes = torch.empty(len(hidden)), torch.empty_like(hidden)
        for start in range(0, len(hidden), HEAD_TOKENS):
            part = slice(start, start + HEAD_TOKENS)
            logits = (hidden[part] @ weight.t()).float()
            at_targets = torch.arange(len(logits)), targets[part]
            highest, of_targets = logits.amax(-1, keepdim=True), logits[at_targets]
            total = logits.sub_(highest).exp_().sum(-1, keepdim=True)
            log_probs[part] = of_targets - (highest + total.log()).squeeze(-1)
            if ctx.needs_input_grad[0]:
                logits.div_(-total)[at_targets] += 1
                slopes[part] = logits.to(weight.dtype) @ weight
        ctx.save_for_backward(slopes)
        return log_probs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * grads[0].unsqueeze(-1)).to(slopes.dtype), None, None
