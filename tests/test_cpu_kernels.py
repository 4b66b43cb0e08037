"""Attention, LoRA layers and LM head on CPUs: the figures of torch, PEFT and TRL in float32, and near them in bfloat16.

A reference is computed in float32 from the same values. The tolerance is the norm of the difference over the norm of
the reference: bfloat16 has 8 bits, so a rounded value is off by up to 0.4 %.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from semtag.training.cpu_kernels import THEIR_HEAD, head_log_probs, lean_layers_on_cpus, packed_attention
from semtag.training.packing import dense_mask, packed_mask

EVERY = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)], ids=["float32", "bfloat16"]
)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_()


def check_near(found: Any, expected: Any, tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert float(((ours.float() - theirs).norm() / theirs.norm()).detach()) < tolerance


@EVERY
@pytest.mark.parametrize("heads", [(6, 2), (3, 3)], ids=["grouped", "own"])
def test_packed_attention_is_that_of_each_row(heads: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    # Two rows, of 7 and 5 tokens: a prompt of 3 with completions of 1 and 3, and two lists.
    lists = torch.tensor([[0] * 7, [0, 0, 1, 1, 1, -1, -1]])
    completions = torch.tensor([[0, 0, 0, 1, 2, 2, 2], [0, 1, 0, 1, 2, 0, 0]])
    real = (lists >= 0).flatten()
    query, key, value = (random(1, many, 12, 16, dtype=dtype) for many in (heads[0], heads[1], heads[1]))
    grad = torch.randn(1, 12, heads[0], 16)
    found, _ = packed_attention(torch.nn.Module(), query, key, value, packed_mask(lists, completions), scaling=0.3)

    def rows(packed: Tensor) -> Tensor:
        """[1, heads, 12, 16] -> [2, heads, 7, 16]."""
        spread = packed.new_zeros(14, *packed[0, :, 0].shape).float()
        spread[real] = packed[0].transpose(0, 1).float()
        return spread.view(2, 7, *spread.shape[1:]).transpose(1, 2)

    repeats = heads[0] // heads[1]
    expected = torch.nn.functional.scaled_dot_product_attention(
        rows(query),
        rows(key).repeat_interleave(repeats, 1),
        rows(value).repeat_interleave(repeats, 1),
        attn_mask=dense_mask(lists, completions, torch.float32),
        scale=0.3,
    )
    expected = expected.transpose(1, 2).reshape(14, heads[0], 16)[real].unsqueeze(0)
    check_near([found], [expected], tolerance)
    ours = torch.autograd.grad(found, (query, key, value), grad.to(dtype))
    check_near(ours, torch.autograd.grad(expected, (query, key, value), grad.to(dtype).float()), tolerance)


def tiny_llama(dtype: torch.dtype, **settings: Any) -> Any:
    """A PEFT model with an adapter that does something, the same one for every dtype."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, **settings)  # fmt: skip
    base = LlamaForCausalLM(config).to(torch.bfloat16).to(dtype)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model.train()


@EVERY
@pytest.mark.parametrize("bias", [False, True])
def test_lora_layers_are_those_of_peft(bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    theirs, ours = (tiny_llama(kind, mlp_bias=bias, attention_bias=bias) for kind in (torch.float32, dtype))
    assert lean_layers_on_cpus(ours.get_base_model(), whole=True)
    for name in ("self_attn.k_proj", "mlp.down_proj"):
        layers = [model.get_base_model().model.layers[1].get_submodule(name) for model in (theirs, ours)]
        inputs = random(2, 5, layers[0].in_features, dtype=dtype)
        grad = torch.randn(2, 5, layers[0].out_features).to(dtype)
        found = []
        for layer in layers:
            kind = layer.get_base_layer().weight.dtype
            weights = inputs, layer.lora_A["default"].weight, layer.lora_B["default"].weight
            value = layer(inputs.to(kind))
            found.append((value.detach(), *torch.autograd.grad(value, weights, grad.to(kind))))
        check_near(found[1], [one.float() for one in found[0]], tolerance)


def test_without_its_adapter_a_layer_is_its_base() -> None:
    model = tiny_llama(torch.float32)
    lean_layers_on_cpus(model.get_base_model(), whole=True)
    layer, inputs = model.get_base_model().model.layers[0].mlp.up_proj, torch.randn(1, 3, 32)
    with model.disable_adapter():
        assert layer(inputs).equal(layer.get_base_layer()(inputs))
    assert not layer(inputs).equal(layer.get_base_layer()(inputs))


def test_layers_of_another_kind_stay_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2))  # its layers are convolutions
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["c_fc"], fan_in_fan_out=True)).eval()
    ids = torch.arange(7).unsqueeze(0)
    before = model(ids).logits
    assert lean_layers_on_cpus(base, whole=True)
    torch.testing.assert_close(model(ids).logits, before)
    eager = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1,
                                         num_attention_heads=2, attn_implementation="eager"))  # fmt: skip
    assert not lean_layers_on_cpus(eager, whole=True)


@EVERY
@pytest.mark.parametrize("tokens", [7, 300])  # in one part, and in three
def test_the_head_gives_the_log_probabilities_of_a_softmax(tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    hidden, weight = random(tokens, 8, dtype=dtype), torch.randn(50, 8).to(dtype)
    targets, grad = torch.randint(50, (tokens,)), torch.randn(tokens)
    found = head_log_probs(hidden, weight, None, targets, 1.0, 16, None, 1.0, ("log_probs",))[0]
    assert found.dtype == torch.float32
    expected = (hidden.float() @ weight.float().T).log_softmax(-1)[torch.arange(tokens), targets]
    check_near([found], [expected], tolerance)
    check_near(torch.autograd.grad(found, hidden, grad), torch.autograd.grad(expected, hidden, grad), tolerance)


@pytest.mark.parametrize("how", [(0.5, 16, None, 1.0), (1.0, 16, 3.0, 1.0), (1.0, 16, None, 0.5)])
def test_other_heads_are_left_to_trl(how: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(7, 5), torch.randn(50, 5), torch.randint(50, (7,))
    found = head_log_probs(hidden, weight, None, targets, *how, ("log_probs", "entropy"))
    expected = THEIR_HEAD.apply(hidden, weight, None, targets, *how, ("log_probs", "entropy"))
    assert found[0].equal(expected[0])
    assert found[1].equal(expected[1])
