"""Starting weights of the demo's base model: attention heads that already copy, so that minutes of training suffice.

Copying from the context takes far longer to emerge than the demo can train. Its circuit is known, a previous-token head
feeding an induction head (Olsson et al. 2022, "In-context Learning and Induction Heads"), and is set by hand here:

layer 0   head 0 copies the identity of the token before; head 1 marks the opening of the text, by its distance from
          the user's turn; head 2 counts opening brackets since the assistant's turn.
layer 1   head 0 continues a word of several pieces (induction); head 1 keeps a word from being said twice.
others    after "[" they look at salient tokens of the opening, each with a taste of its own, and copy what they see.

Training then adapts all weights but those that tell a said word from others (`hold`). Shapes: V tokens, D width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

# Strengths found by the log-probability of true labels before any training.
_UNEMBED, _AGAIN, _CONTINUE, _SELECT, _SUPPRESS = 0.3, 0.2, 0.8, 0.8, 3.4
_SHARPNESS, _OPENING, _TASTE, _MATCH = 0.8, 4.0, 0.5, 40.0
_FLAG = 4.0  # size of an embedding that marks one token
_ANSWER_WINDOW = 60  # tokens after the assistant's turn in which brackets count


@dataclass(frozen=True)
class TokenRoles:
    """What the circuits must know of the vocabulary; the first three are [V]."""

    salience: Tensor  # log odds that the token starts a label when it occurs
    prior: Tensor  # log share of the token among the first pieces of tags
    continues: Tensor  # whether the token continues a word
    silent: Tensor  # ids without letters, which are never copied
    bracket: int
    user: int
    assistant: int
    opening: int  # tokens from the user's turn to the end of the opening


class Layout:
    """Where the residual stream keeps what: identity of the token, of a copied one, of the one before, and flags."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        width, self.head = model.config.hidden_size, model.config.head_dim
        # First pieces and continuations have separate codes, so that selection and induction do not blur each other.
        self.firsts, self.pieces = torch.arange(self.head * 11 // 16), torch.arange(self.head * 11 // 16, self.head)
        flags = 2 * self.head + (previous := width - width // 7 - 2 * self.head)
        self.previous = torch.arange(2 * self.head, flags)
        share = previous * 2 // 3
        self.previous_from = torch.cat([self.firsts[:share], self.pieces[: previous - share]])
        self.previous = self.previous[: len(self.previous_from)]
        (self.one, self.filler, self.salience, self.bracket, self.after_bracket, self.user, self.early,
         self.assistant, self.count) = range(flags, flags + 9)  # fmt: skip
        self.own = slice(flags + 9, width)


@torch.no_grad()
def install_circuits(model: LlamaForCausalLM, roles: TokenRoles) -> None:
    """Overwrite embeddings, unembedding and the heads named above; the MLPs stay random."""
    layout, config = Layout(model), model.config
    norm = _embed(model, layout, roles)
    # Every row has this squared norm, so RMSNorm is one known factor in each layer.
    first_gain = math.sqrt(config.hidden_size / norm)
    gain = math.sqrt(config.hidden_size / (norm + layout.head))
    last_gain = math.sqrt(config.hidden_size / (norm + 2 * layout.head))
    embed, unembed = model.model.embed_tokens.weight, model.lm_head.weight
    unembed[:, layout.head : 2 * layout.head] = _UNEMBED * embed[:, : layout.head]
    # Votes against the token just read and the one before it, or induction goes round in words such as "Chihuahua".
    unembed[:, : layout.head] = -_AGAIN * embed[:, : layout.head]
    unembed[:, layout.previous] = -_AGAIN * embed[:, layout.previous_from]
    unembed[:, layout.own].normal_(0, 0.1)
    unembed[:, layout.bracket] = roles.prior / (_FLAG * last_gain)
    bottom = [_Head(model, 0, head, first_gain) for head in range(3)]
    _previous_token(bottom[0], layout)
    _distance(bottom[1], layout, [layout.user], roles.opening)
    bottom[1].copy([layout.user], [layout.early], 1 / _FLAG)
    _distance(bottom[2], layout, [layout.assistant, layout.bracket], _ANSWER_WINDOW)
    bottom[2].copy([layout.assistant], [layout.count], 6 / _FLAG)
    _induction(_Head(model, 1, 0, gain), layout)
    _suppression(_Head(model, 1, 1, gain), layout)
    places = [(i, head) for i in range(1, config.num_hidden_layers) for head in range(config.num_attention_heads)][2:]
    for i, head in places:
        _selection(_Head(model, i, head, gain), layout, _SELECT / math.sqrt(len(places)))


def hold(model: LlamaForCausalLM) -> None:
    """Keep training off the weights that tell a said word from others: drift in any of them brings repeats back."""
    layout, (bottom, second) = Layout(model), model.model.layers[:2]
    flags, head = slice(layout.one, layout.count + 1), slice(layout.head, 2 * layout.head)
    with torch.no_grad():
        for place in (flags, layout.previous):  # only attention writes here
            bottom.mlp.down_proj.weight[place] = 0
            _mask(bottom.mlp.down_proj.weight, place)
    _mask(model.model.embed_tokens.weight, (slice(None), flags))
    for weight in (bottom.input_layernorm.weight, second.input_layernorm.weight, *bottom.self_attn.parameters()):
        weight.requires_grad_(False)
    suppression = second.self_attn
    for projection in (suppression.q_proj, suppression.k_proj, suppression.v_proj):
        _mask(projection.weight, head)
    _mask(suppression.o_proj.weight, (slice(None), head))


def _mask(weight: Tensor, place: Any) -> None:
    keep = torch.ones_like(weight)
    keep[place] = 0
    weight.register_hook(lambda gradient: gradient * keep)


class _Head:
    """One attention head's slices; writing undoes the norm's `gain`, and scores are in nats."""

    def __init__(self, model: LlamaForCausalLM, layer: int, head: int, gain: float) -> None:
        attention, self.size, self.gain = model.model.layers[layer].self_attn, model.config.head_dim, gain
        rows = slice(head * self.size, (head + 1) * self.size)
        self.query, self.key = attention.q_proj.weight[rows], attention.k_proj.weight[rows]
        self.value, self.out = attention.v_proj.weight[rows], attention.o_proj.weight[:, rows]
        for weight in (self.query, self.key, self.value, self.out):
            weight.zero_()
        half = self.size // 2
        self.turn = model.config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)  # radians a token
        self.slow = (self.turn < 0.004).nonzero()[:, 0]  # RoPE hardly turns these: they match by content alone

    def attend(self, slot: int, query: int, key: int | list[int], nats: float) -> None:
        """Score `nats` where query and key features are 1, turned by RoPE as pair `slot` is."""
        nats = nats * math.sqrt(self.size) / self.gain**2
        self.query[slot, query] = math.copysign(math.sqrt(abs(nats)), nats)
        self.key[slot, key] = math.sqrt(abs(nats))

    def copy(self, source: list[int] | Tensor, target: list[int] | Tensor, scale: float) -> None:
        slots = torch.arange(len(source))
        self.value[slots, source] = 1 / self.gain
        self.out[target, slots] = scale


def _embed(model: LlamaForCausalLM, layout: Layout, roles: TokenRoles) -> float:
    """Fill the embeddings; returns their common squared norm."""
    embed = model.model.embed_tokens.weight
    embed.zero_()
    codes = torch.randn(len(embed), layout.head)
    codes[:, layout.firsts] *= (~roles.continues)[:, None]
    codes[:, layout.pieces] *= roles.continues[:, None] * math.sqrt(len(layout.firsts) / len(layout.pieces))
    codes[roles.silent] = 0
    embed[:, : layout.head] = codes
    embed[:, layout.own].normal_(0, 0.5)
    embed[:, layout.one] = 1
    embed[:, layout.salience] = roles.salience
    embed[roles.bracket, layout.bracket] = _FLAG
    embed[roles.user, layout.user] = _FLAG
    embed[roles.assistant, layout.assistant] = _FLAG
    norms = embed.square().sum(1)
    embed[:, layout.filler] = (norms.max() - norms).sqrt()
    return norms.max().item()


def _previous_token(head: _Head, layout: Layout) -> None:
    """Queries turned back by one position meet the key before, by the pairs that RoPE turns fast."""
    half, fast = head.size // 2, head.turn > 0.1
    strength = 4.0 / head.gain
    head.key[:half, layout.one] = torch.where(fast, strength, 0)
    head.query[:half, layout.one] = torch.where(fast, strength * torch.cos(head.turn), 0)
    head.query[half:, layout.one] = torch.where(fast, -strength * torch.sin(head.turn), 0)
    source = torch.cat([layout.previous_from, torch.tensor([layout.bracket])])
    head.copy(source, torch.cat([layout.previous, torch.tensor([layout.after_bracket])]), 1.0)


def _distance(head: _Head, layout: Layout, anchors: list[int], reach: int) -> None:
    """Attend to anchor tokens less than about `reach` tokens back, and beyond that to nothing in particular."""
    at_reach = 0.0
    # One pair would come round again on long texts; four of different periods do not.
    for angle in (1.19, 0.6, 0.3, 0.15):
        slot = int((head.turn - angle / reach).abs().argmin())
        at_reach += math.cos(head.turn[slot].item() * reach)
        head.attend(slot, layout.one, anchors, 4.0 / _FLAG)
    # At `reach` an anchor weighs e^4.5, as much as the 90 or so other tokens together.
    head.attend(int(head.slow[-1]), layout.one, anchors, (4.5 - 4.0 * at_reach) / _FLAG)


def _induction(head: _Head, layout: Layout) -> None:
    """Look for what followed this token before, and copy it where it continues a word."""
    slots = torch.cat([head.slow, head.slow + head.size // 2])[: len(layout.previous)]
    picked = torch.randperm(len(layout.previous))[: len(slots)]
    strength = math.sqrt(_MATCH * math.sqrt(head.size) / len(slots)) / head.gain
    head.query[slots, layout.previous_from[picked]] = strength
    head.key[slots, layout.previous[picked]] = strength
    head.copy(layout.pieces, layout.head + layout.pieces, _CONTINUE)


def _suppression(head: _Head, layout: Layout) -> None:
    """After a bracket, look at what followed earlier brackets of this answer, and vote against it."""
    head.attend(int(head.slow[-1]), layout.bracket, layout.after_bracket, 14.0 / _FLAG**2)
    # The prompt shows its format in brackets too: minus 10 nats or more for what lies far behind, none for the answer.
    for turn in (0.02, 0.01):
        head.attend(int((head.turn - turn).abs().argmin()), layout.bracket, layout.one, 10.0 / _FLAG)
    head.attend(int(head.slow[-2]), layout.bracket, layout.one, -20.0 / _FLAG)
    head.copy(layout.firsts, layout.head + layout.firsts, -_SUPPRESS)


def _selection(head: _Head, layout: Layout, scale: float) -> None:
    """After a bracket, look at salient tokens, those of the opening most of all, and copy them."""
    slots = head.slow[-min(8, len(head.slow)) :]
    tastes = torch.randn(len(slots), head.key[:, layout.own].shape[1])
    for slot, taste in zip(slots.tolist(), tastes, strict=True):
        head.attend(slot, layout.bracket, layout.salience, _SHARPNESS / _FLAG / len(slots))
        unit = head.key[slot, layout.salience].item()
        head.key[slot, layout.early] = unit * _OPENING / _SHARPNESS
        head.key[slot, layout.own] = unit * _TASTE * taste / (0.5 * math.sqrt(len(taste)))
    head.copy(layout.firsts, layout.head + layout.firsts, scale)
