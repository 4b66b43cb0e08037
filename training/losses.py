"""Preference losses over ranked lists. A pair is a list of two.

All take, for B lists of up to K completions:

    ratios   [B, K]  log-ratios h of policy to reference, in nats: the sum over a completion's tokens, or the mean with
                     training.averages
    scores   [B, K]  what the completions are ranked by; of one scale within a list, of any scale between lists
    present  [B, K]  bool, False where a list has no such completion; these places get no gradient
    beta             strength of the pull to the reference, above 0

and return the loss of each list, [B]. Rewards are r = beta h. Completions of a list stand by falling score, of equal
scores by their sample index, as in lists/. Of equal scores or rewards the lower index comes first. So where all rewards
are equal, as before the first update, `lipo_lambda` ranks by score. A list without two completions of different score
has the loss 0.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def ipo(ratios: Tensor, scores: Tensor, present: Tensor, beta: float) -> Tensor:
    """Return the mean over s_i > s_j of (h_i - h_j - 1/(2 beta))^2: IPO for pairs (arXiv 2310.12036, eq. 17)."""
    return _over_preferences((_gaps(ratios) - 1 / (2 * beta)) ** 2, scores, present)


def ipo_margin(ratios: Tensor, scores: Tensor, present: Tensor, beta: float) -> Tensor:
    """Return IPO with a target in proportion to the score gap: mean of (h_i - h_j - (s_i - s_j)/(2 beta))^2.

    Scores are rescaled to [0, 1] within each list, so that best and worst have IPO's own target. This is REBEL (arXiv
    2404.16767, eq. 4) with rewards on the list's own scale.
    """
    target = _gaps(rescaled(scores, present)) / (2 * beta)
    return _over_preferences((_gaps(ratios) - target) ** 2, scores, present)


def sigmoid(ratios: Tensor, scores: Tensor, present: Tensor, beta: float) -> Tensor:
    """Return the mean over s_i > s_j of -log sigmoid(r_i - r_j): DPO for pairs (arXiv 2305.18290, eq. 7)."""
    return _over_preferences(-logsigmoid(beta * _gaps(ratios)), scores, present)


def lipo_lambda(ratios: Tensor, scores: Tensor, present: Tensor, beta: float) -> Tensor:
    """Return the sum over s_i > s_j of Delta_ij log(1 + exp(-(r_i - r_j))).

    Delta_ij = |2^s_i - 2^s_j| |1/log(1 + rank_i) - 1/log(1 + rank_j)| with ranks 1 to K by the current rewards.
    Scores are rescaled to [0, 1] within each list, because cosine gaps of 0.05 would make the first factor vanish. The
    source is LiPO-lambda (arXiv 2402.01878, eq. 7 and 8).
    """
    gains = _gaps(2 ** rescaled(scores, present)).abs()
    discounts = _gaps(1 / torch.log1p(ranks(ratios.detach(), present).to(ratios.dtype))).abs()
    terms = -logsigmoid(beta * _gaps(ratios)) * gains * discounts
    return torch.where(_preferences(scores, present), terms, 0).sum(dim=(1, 2))


def plackett_luce(ratios: Tensor, scores: Tensor, present: Tensor, beta: float) -> Tensor:
    """Return -log of the probability of the order by score: -sum_k [r_(k) - logsumexp over j >= k of r_(j)].

    The source is appendix A.3 of the DPO paper (arXiv 2305.18290, eq. 20). Equal scores are in order of index.
    """
    order = ranks(scores, present).argsort(dim=1)
    rewards = (beta * ratios).gather(1, order)
    there = present.gather(1, order)
    # Absent places come last in the order, so a log-sum-exp from the end starts with them at the lowest value.
    kept = rewards.masked_fill(~there, torch.finfo(rewards.dtype).min)
    rest = kept.flip(1).logcumsumexp(dim=1).flip(1)
    losses = torch.where(there, rest - rewards, 0).sum(dim=1)
    return torch.where(_preferences(scores, present).any(dim=2).any(dim=1), losses, 0 * losses)


LOSSES = {
    "ipo": ipo,
    "ipo_margin": ipo_margin,
    "sigmoid": sigmoid,
    "lipo_lambda": lipo_lambda,
    "plackett_luce": plackett_luce,
}


def rescaled(scores: Tensor, present: Tensor) -> Tensor:
    """Map scores to [0, 1] within each list, the worst to 0 and the best to 1; 0 where all are equal or absent.

    Example: [0.2, 0.6, 0.4] becomes [0, 1, 0.5].
    """
    low = scores.masked_fill(~present, torch.inf).amin(dim=1, keepdim=True)
    high = scores.masked_fill(~present, -torch.inf).amax(dim=1, keepdim=True)
    span = high - low
    return torch.where(present & (span > 0), (scores - low) / torch.where(span > 0, span, 1), 0)


def ranks(values: Tensor, present: Tensor) -> Tensor:
    """Rank the values of each list, int64 from 1 for the largest to K; equal values by index, absent ones last.

    Example: [0.2, 0.6, 0.4] becomes [3, 1, 2].
    """
    order = values.masked_fill(~present, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(1, values.shape[1] + 1, device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _gaps(values: Tensor) -> Tensor:
    """Return value i less value j, [B, K, K]."""
    return values.unsqueeze(2) - values.unsqueeze(1)


def _preferences(scores: Tensor, present: Tensor) -> Tensor:
    """Mark where i and j are present and i scores higher than j, bool [B, K, K]."""
    return (_gaps(scores) > 0) & present.unsqueeze(2) & present.unsqueeze(1)


def _over_preferences(terms: Tensor, scores: Tensor, present: Tensor) -> Tensor:
    preferred = _preferences(scores, present)
    count = preferred.sum(dim=(1, 2)).clamp(min=1)
    return torch.where(preferred, terms, 0).sum(dim=(1, 2)) / count
