"""The losses, as pure functions of log-ratios.

Throughout, a log-ratio is log pi(y|m,x) - log rho(y|m,x), summed over the response's tokens, in nats, float32 [batch];
a reward is beta times a log-ratio. Every function returns the loss per example, [batch].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Normalise = Literal["mean", "sum"]


def logistic(margin: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log sigma(margin), with the label flipped with probability `label_smoothing`.

    Args:
        margin: [batch], a reward difference.
        label_smoothing: in [0, 0.5); 0 is the paper's loss.

    Source: Rafailov et al., NeurIPS 2023, eq. 7; label smoothing as "conservative DPO" in the same authors' note.
    """
    from torch.nn.functional import logsigmoid

    if not label_smoothing:
        return -logsigmoid(margin)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def dpo(
    chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float = 0.0, extra: Tensor | float = 0.0
) -> Tensor:
    """-log sigma(beta (chosen - rejected) + extra).

    Args:
        chosen: log-ratio of the preferred response, [batch]; divided by its length for length-normalised DPO. rejected: log-ratio of the
        other response, [batch].
        beta: strength of the pull towards the reference.
        label_smoothing: see `logistic`.
        extra: R-DPO's alpha (|y_w| - |y_l|), [batch] or 0: corrects for the part of a preference that is due to length.

    Source: Rafailov et al., NeurIPS 2023, eq. 7; by length Park et al. (R-DPO), ACL Findings 2024, eq. 9, and Meng et al. (SimPO),
        NeurIPS 2024, table 3 (length-normalised DPO).
    """
    return logistic(beta * (chosen - rejected) + extra, label_smoothing)


def hinge(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta (chosen - rejected)).

    Args:
        chosen: log-ratio of the preferred response, [batch]. rejected: log-ratio of the other response, [batch].
        beta: strength of the pull towards the reference.

    Source: Zhao et al. (SLiC-HF), 2023, with log-ratios as in Liu et al. (RSO), ICLR 2024.
    """
    return (1 - beta * (chosen - rejected)).relu()


def ipo(chosen: Tensor, rejected: Tensor, tau: float) -> Tensor:
    """(chosen - rejected - 1 / (2 tau))^2.

    Args:
        chosen: log-ratio of the preferred response, [batch], divided by its length; the sum is the loss as it is printed.
        rejected: log-ratio of the other response, [batch], in the same way.
        tau: strength of the pull towards the reference.

    Source: Azar et al. (IPO), AISTATS 2024, eq. 17. The division by length is not in the paper; TRL's authors report that the paper's
        authors computed it so, and TRL does.
    """
    return (chosen - rejected - 1 / (2 * tau)) ** 2


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta (chosen - rejected) - gamma), without a reference.

    Args:
        chosen: log-probability of the preferred response divided by its length, [batch]. rejected: of the other response, [batch].
        beta: scale of the reward beta log pi(y|m,x) / |y|.
        gamma: reward margin that the preferred response should reach, at least 0.
        label_smoothing: see `logistic`; 0 is the paper's loss.

    Source: Meng et al. (SimPO), NeurIPS 2024, eq. 6.
    """
    return logistic(beta * (chosen - rejected) - gamma, label_smoothing)


def kto_pair(chosen: Tensor, rejected: Tensor, beta: float, kl_chosen: float, kl_rejected: float) -> Tensor:
    """Mean of KTO's losses of a preferred and of another response: (1 - sigma(beta (chosen - z_l)) + 1 - sigma(beta (z_w - rejected))) / 2,
    with z = max(0, KL(pi || rho)), a constant.

    Args:
        chosen: log-ratio of the preferred response, [batch]. rejected: log-ratio of the other response, [batch].
        beta: strength of the pull towards the reference.
        kl_chosen: estimate of the divergence from preferred responses, in nats: their mean log-ratio. kl_rejected: from the other ones.

    Source: Ethayarajh et al. (KTO), ICML 2024, eq. 7, with both weights 1; for pairs as in TRL's former loss `kto_pair`: the divergence
        for one half of the responses is estimated with the other half.
    """
    good = 1 - (beta * (chosen - max(0.0, kl_rejected))).sigmoid()
    bad = 1 - (beta * (max(0.0, kl_chosen) - rejected)).sigmoid()
    return (good + bad) / 2


def mpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_logp: Tensor,
    *,
    beta: float,
    shift: float,
    lambda_preference: float,
    lambda_quality: float,
    lambda_generation: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """lambda_preference L_preference + lambda_quality L_quality + lambda_generation L_generation, and the three terms.

    L_preference = -log sigma(r_w - r_l) is DPO's, L_quality = -log sigma(r_w - shift) - log sigma(-(r_l - shift)) is BCO's, and
    L_generation = -log pi(y_w|m,x) / |y_w| is that of supervised training.

    Args:
        chosen: log-ratio of the preferred response, [batch]. rejected: log-ratio of the other response, [batch].
        chosen_logp: log-probability of the preferred response under the policy, divided by its length, [batch].
        beta: strength of the pull towards the reference.
        shift: BCO's delta, the mean of earlier rewards.
        lambda_preference, lambda_quality, lambda_generation: weights of the terms (the paper's w_p, w_q and w_g).

    Source: Wang et al. (MPO), 2024, arXiv 2411.10442; L_quality is that of Jung et al. (BCO), 2024, arXiv 2404.04656.
    """
    terms = {
        "loss_preference": logistic(beta * (chosen - rejected)),
        "loss_quality": logistic(beta * chosen - shift) + logistic(shift - beta * rejected),
        "loss_generation": -chosen_logp,
    }
    weights = {
        "loss_preference": lambda_preference,
        "loss_quality": lambda_quality,
        "loss_generation": lambda_generation,
    }
    return sum(weights[name] * term for name, term in terms.items()), terms  # type: ignore[return-value]


def corrected_likelihood(
    tokens: Tensor, mask: Tensor, corrected: Tensor, gamma: float, normalise: Normalise = "mean"
) -> Tensor:
    """RLHF-V's log-likelihood of a response: sum over unchanged tokens + gamma times the sum over corrected ones, [batch].

    Args:
        tokens: log-probabilities per token, [batch, length], 0 where `mask` is False.
        mask: response tokens, [batch, length] bool.
        corrected: tokens that the correction changed, [batch, length] bool.
        gamma: weight of a corrected token; 1 gives the plain sum or mean.
        normalise: `mean` divides by N = unchanged + gamma corrected, as the paper prints it; `sum` does not, as the public trainers do
            that descend from its code (RLAIF-V's and CHiP's, whose `dpo_use_average` is off by default).

    Source: Yu et al., CVPR 2024, eq. 5.
    """
    weights = mask.to(tokens.dtype) * (1 + (gamma - 1) * corrected.to(tokens.dtype))
    total = (tokens * weights).sum(-1)
    return total if normalise == "sum" else total / weights.sum(-1).clamp(min=1)


def image_preference(
    chosen: Tensor,
    rejected: Tensor,
    image_rejected: Tensor,
    *,
    beta: float,
    lambda_image: float,
    lambda_margin: float,
    delta: float,
    label_smoothing: float = 0.0,
    lambda_text: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """lambda_text L_text + lambda_image L_image + lambda_margin L_margin, and the three terms.

    Args:
        chosen: log-ratio of the preferred response given the original image, [batch].
        rejected: log-ratio of the other response given the original image, [batch].
        image_rejected: log-ratio of the preferred response given the rejected image, [batch].
        beta: strength of the pull towards the reference.
        lambda_image: weight of the image term -log sigma(r(m_w, y_w) - r(m_l, y_w)).
        lambda_margin: weight of the margin term -log sigma(r(m_w, y_w) - delta).
        delta: reward that the preferred pair should keep.
        label_smoothing: see `logistic`; for the text term, whose labels come from people or models.
        lambda_text: weight of the text term -log sigma(r(m_w, y_w) - r(m_w, y_l)).

    Source: MFPO (Jiang et al., IJCAI 2025, arXiv 2410.15334v2), eq. 5 to 7, whose Tables 5 and 6 find delta = 0 (the paper's eta) and
        weights of 1 best; with these mDPO (Wang et al., EMNLP 2024, eq. 3 to 5).
    """
    terms = {
        "loss_text": logistic(beta * (chosen - rejected), label_smoothing),
        "loss_image": logistic(beta * (chosen - image_rejected)),
        "loss_margin": logistic(beta * chosen - delta),
    }
    weights = {"loss_text": lambda_text, "loss_image": lambda_image, "loss_margin": lambda_margin}
    return sum(weights[name] * term for name, term in terms.items()), terms  # type: ignore[return-value]


def plackett_luce(rewards: Tensor) -> Tensor:
    """Negative log-likelihood of a ranking: -sum_k log(exp(r_k) / sum_{j >= k} exp(r_j)), [batch].

    Args:
        rewards: [batch, length], in the order of the ranking, best first.

    Source: Plackett, 1975; as a loss of rewards Rafailov et al., NeurIPS 2023, appendix A.3.
    """
    ranks = range(rewards.shape[-1] - 1)  # the last one is certain
    return sum(rewards[..., rank:].logsumexp(-1) - rewards[..., rank] for rank in ranks)  # type: ignore[return-value]


def lpoi(
    chosen: Tensor,
    rejected: Tensor,
    images: Sequence[Tensor],
    *,
    beta: float,
    lambda_text: float,
    lambda_list: float,
    lambda_margin: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """lambda_text L_text + lambda_list L_list + lambda_margin L_margin, and the three terms.

    Args:
        chosen: log-ratio of the preferred response given the original image, [batch].
        rejected: log-ratio of the other response given the original image, [batch].
        images: log-ratios of the preferred response given the rejected images, from the one that was changed least on, [batch] each.
        beta: strength of the pull towards the reference.
        lambda_text: weight of DPO's term -log sigma(r(m, y_w) - r(m, y_l)).
        lambda_list: weight of the likelihood of the ranking original, rejected images (`plackett_luce`).
        lambda_margin: weight of the anchor -log sigma(r(m, y_w)).

    Source: Pesaran Zadeh et al. (LPOI), ACL 2025, arXiv 2505.21061, "listwise preference loss", and its public code, which adds the three
        terms without weights.
    """
    import torch

    terms = {
        "loss_text": logistic(beta * (chosen - rejected)),
        "loss_list": plackett_luce(beta * torch.stack([chosen, *images], -1)),
        "loss_margin": logistic(beta * chosen),
    }
    weights = {"loss_text": lambda_text, "loss_list": lambda_list, "loss_margin": lambda_margin}
    return sum(weights[name] * term for name, term in terms.items()), terms  # type: ignore[return-value]


def weighted_likelihood(tokens: Tensor, weights: Tensor) -> Tensor:
    """Sum of weights times log-probabilities over a response's tokens, [batch].

    Args:
        tokens: log-probabilities per token, [batch, length], 0 beyond the response.
        weights: of the tokens, [batch, length].
    """
    return (tokens * weights).sum(-1)


def opa_dpo(
    standard: Tensor,
    revised: Tensor,
    generated: Tensor,
    weighted_revised: Tensor,
    weighted_generated: Tensor,
    image_standard: Tensor,
    image_revised: Tensor,
    *,
    beta: float,
    lambda_standard: float,
    lambda_revised: float,
    lambda_image: float,
    lambda_margin: float,
    lower_revised: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """lambda_standard (L_standard + lambda_image I_standard) + lambda_revised (L_revised + lambda_image I_revised)
    + lambda_margin L_margin, and the five terms.

    L_standard = -log sigma(r(standard) - r(generated)), L_revised the same of the revised response with weighted tokens, I the same of a
    response given the original and given the rejected image, and L_margin = -log sigma(r(standard)) - log sigma(r(revised)).

    Args:
        standard, revised, generated: log-ratios of the reference answer, of the model's own answer as an expert corrected it, and of the
            model's own answer, given the original image, [batch].
        weighted_revised, weighted_generated: the same with weighted tokens, [batch].
        image_standard: log-ratio of the standard response given the rejected image, [batch].
        image_revised: log-ratio of the revised response given the rejected image with weighted tokens, [batch].
        beta: strength of the pull towards the reference.
        lambda_standard, lambda_revised: weights of the pairs with the standard and the revised response.
        lambda_image: weight of the image terms within these.
        lambda_margin: weight of the anchors.
        lower_revised: use -log sigma(-r(revised)) as the second anchor, which the public code computes.

    Source: Yang et al. (OPA-DPO), CVPR 2025, arXiv 2501.09695, and its public code. Differences: the public code compares the two responses
        token by token, at equal positions, and averages over the positions of a padded batch; as in DPO, these are sums over a response.
    """
    terms = {
        "loss_standard": logistic(beta * (standard - generated)),
        "loss_revised": logistic(beta * (weighted_revised - weighted_generated)),
        "loss_image_standard": logistic(beta * (standard - image_standard)),
        "loss_image_revised": logistic(beta * (weighted_revised - image_revised)),
        "loss_margin": logistic(beta * standard) + logistic(beta * (-revised if lower_revised else revised)),
    }
    weights = {
        "loss_standard": lambda_standard,
        "loss_revised": lambda_revised,
        "loss_image_standard": lambda_standard * lambda_image,
        "loss_image_revised": lambda_revised * lambda_image,
        "loss_margin": lambda_margin,
    }
    return sum(weights[name] * term for name, term in terms.items()), terms  # type: ignore[return-value]


def symmpo(
    chosen: Tensor,
    rejected: Tensor,
    cross_response: Tensor,
    second: Tensor,
    cross_image: Tensor,
    *,
    beta: float,
    lambda_pair: float,
    lambda_consistency: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Two images and their preferred responses, each compared with the other's, in both directions.

    With m, y_w, y_l the example and m2, y2 the second image and its preferred response:
    d1 = r(m, y_w) - r(m, y2), d2 = r(m2, y2) - r(m2, y_w), a1 and a2 the same without beta,
    L = -log sigma(r(m, y_w) - r(m, y_l)) + lambda_pair [-log sigma(d1) - log sigma(d2)]
        - log sigma(r(m, y_w)) - log sigma(r(m2, y2)) + lambda_consistency (a1 - a2)^2.

    Args:
        chosen: log-ratio of y_w given m, [batch].
        rejected: log-ratio of y_l given m, [batch].
        cross_response: log-ratio of y2 given m, [batch].
        second: log-ratio of y2 given m2, [batch].
        cross_image: log-ratio of y_w given m2, [batch].
        beta: strength of the pull towards the reference.
        lambda_pair: weight of the two pair terms.
        lambda_consistency: weight of the squared difference of the two gaps.

    Source: Liu et al. (SymMPO), NeurIPS 2025.
    """
    first_gap, second_gap = chosen - cross_response, second - cross_image
    terms = {
        "loss_text": logistic(beta * (chosen - rejected)),
        "loss_pair": logistic(beta * first_gap) + logistic(beta * second_gap),
        "loss_margin": logistic(beta * chosen) + logistic(beta * second),
        "loss_consistency": (first_gap - second_gap) ** 2,
    }
    weights = {"loss_pair": lambda_pair, "loss_consistency": lambda_consistency}
    loss = terms["loss_text"] + terms["loss_margin"]
    for name, weight in weights.items():
        loss = loss + weight * terms[name]
    return loss, terms


def chip(
    chosen: Tensor,
    rejected: Tensor,
    image_rejected: Tensor,
    divergence_chosen: Tensor,
    divergence_rejected: Tensor,
    *,
    beta: float,
    beta_token: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigma(text + image + token): response, segment and token level and the image in one sigmoid.

    text = beta (chosen - rejected), image = beta (chosen - image_rejected),
    token = beta beta_token (KL of y_w without gradient - KL of y_l).

    Args:
        chosen: log-ratio of the preferred response's likelihood (`corrected_likelihood`) given the original image, [batch].
        rejected: the same of the other response, [batch].
        image_rejected: the same of the preferred response given the rejected image, [batch].
        divergence_chosen: sum over the preferred response's tokens of KL(reference || policy), in nats, [batch].
        divergence_rejected: the same of the other response, [batch].
        beta: strength of the pull towards the reference; of the whole logit, the token level included, as in the public code.
        beta_token: weight of the token level next to the others.

    Source: Fu et al. (CHiP), ICLR 2025, and its public code; the token level is that of Zeng et al. (TDPO), ICML 2024, eq. 18.
    """
    parts = {
        "logit_text": beta * (chosen - rejected),
        "logit_image": beta * (chosen - image_rejected),
        "logit_token": beta * beta_token * (divergence_chosen.detach() - divergence_rejected),
    }
    return logistic(parts["logit_text"] + parts["logit_image"] + parts["logit_token"]), parts
