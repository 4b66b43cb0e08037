"""TRL's LM head on a CPU: completions alone go through it, and their logits are gone over as seldom as can be.

On a GPU TRL has kernels for both. For devices without Triton it keeps static shapes, for the sake of compilers that a
CPU does not have, and makes a new tensor of the logits' size for each operation, though memory is what a CPU waits for.
The figures are the same (a test says so); the version of TRL is pinned.
"""

from typing import Any

import torch
from torch import Tensor
from trl.kernels import chunked_logprob as kernels
from trl.trainer import utils

THEIRS = kernels._forward_tile, kernels._backward_tile


def lean_head_on_cpus() -> None:
    """Have TRL's trainers use what is here from now on; on GPUs nothing changes."""
    utils._use_triton = lambda device: device.type in ("cpu", "cuda")
    kernels._forward_tile, kernels._backward_tile = forward_tile, backward_tile


def forward_tile(
    tile: Tensor,
    stride: int,
    targets: Tensor,
    running_max: Tensor,
    sum_exp: Tensor,
    *others: Any,
    **how: Any,
) -> None:
    """Fold the logits [N, V'] of a part of the vocabulary into each token's running maximum and sum of exponentials.

    `others` end with the target's logit [N], the part's first token and its size. TRL's own does what is asked beyond.
    """
    *_, target_logit, first, size = others
    if not _plain(tile, how):
        THEIRS[0](tile, stride, targets, running_max, sum_exp, *others, **how)
        return
    rows, places = _inside(targets, first, size)
    target_logit[rows] = tile[rows, places]
    highest = torch.maximum(running_max, tile.amax(-1))
    sum_exp.mul_((running_max - highest).exp_()).add_(tile.sub_(highest.unsqueeze(-1)).exp_().sum(-1))
    running_max.copy_(highest)


def backward_tile(
    tile: Tensor,
    stride: int,
    targets: Tensor,
    log_z: Tensor,
    entropy: Tensor,
    grad: Tensor,
    grad_entropy: Tensor,
    first: int,
    size: int,
    **how: Any,
) -> None:
    """Turn logits into their gradients in place: g (1[j = target] - p_j) for a token whose log-probability's is g."""
    if not _plain(tile, how) or not how["HAS_LOGPROB_GRAD"]:
        THEIRS[1](tile, stride, targets, log_z, entropy, grad, grad_entropy, first, size, **how)
        return
    tile.sub_(log_z.unsqueeze(-1)).exp_().mul_(-grad.unsqueeze(-1))
    rows, places = _inside(targets, first, size)
    tile[rows, places] += grad[rows]


def _plain(tile: Tensor, how: dict[str, Any]) -> bool:
    """Whether logits are what the head says, in float32, and nothing but log-probabilities is asked for."""
    asked = (value for name, value in how.items() if name.startswith("HAS_") and name != "HAS_LOGPROB_GRAD")
    return tile.dtype == torch.float32 and how["logit_scale"] == how["inv_t"] == 1 and not any(asked)


def _inside(targets: Tensor, first: int, size: int) -> tuple[Tensor, Tensor]:
    """Which tokens have their target in a part of the vocabulary, and where in it."""
    places = targets - first
    rows = ((places >= 0) & (places < size)).nonzero().squeeze(-1)
    return rows, places[rows]
