"""The losses, as pure functions of log-ratios.

Throughout, a log-ratio is log pi(y|m,x) - log rho(y|m,x), summed over the response's tokens, in nats, float32 [batch];
a reward is beta times a log-ratio. Every function returns the loss per example, [batch].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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


def dpo(chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta (chosen - rejected)).

    Args:
        chosen: log-ratio of the preferred response, [batch].
        rejected: log-ratio of the other one, [batch].
        beta: strength of the pull towards the reference.
        label_smoothing: see `logistic`.

    Source: Rafailov et al., NeurIPS 2023, eq. 7.
    """
    return logistic(beta * (chosen - rejected), label_smoothing)


def corrected_mean(tokens: Tensor, mask: Tensor, corrected: Tensor, gamma: float) -> Tensor:
    """RLHF-V's log-likelihood of a response: (1/N) [sum over unchanged + gamma sum over corrected], N = unchanged + gamma corrected.

    Args:
        tokens: log-probabilities per token, [batch, length], 0 where `mask` is False.
        mask: response tokens, [batch, length] bool.
        corrected: tokens that the correction changed, [batch, length] bool.
        gamma: weight of a corrected token; 1 gives the mean over tokens.

    Source: Yu et al., CVPR 2024, eq. 5.
    """
    weights = mask.to(tokens.dtype) * (1 + (gamma - 1) * corrected.to(tokens.dtype))
    return (tokens * weights).sum(-1) / weights.sum(-1).clamp(min=1)


def mfpo(
    chosen: Tensor,
    rejected: Tensor,
    image_rejected: Tensor,
    *,
    beta: float,
    lambda_image: float,
    lambda_margin: float,
    delta: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_text + lambda_image L_image + lambda_margin L_margin, and the three terms.

    Args:
        chosen: log-ratio of the preferred response given the original image, [batch].
        rejected: log-ratio of the other response given the original image, [batch].
        image_rejected: log-ratio of the preferred response given the corrupted image, [batch].
        beta: strength of the pull towards the reference.
        lambda_image: weight of the image term -log sigma(r(m_w, y_w) - r(m_l, y_w)).
        lambda_margin: weight of the margin term -log sigma(r(m_w, y_w) - delta).
        delta: reward that the preferred pair should keep.

    Source: Jiang et al., IJCAI 2025 (arXiv 2410.15334).
    Differences: the paper's full text was not at hand; the parts are its abstract's, the margin term's form is our reading.
    """
    terms = {
        "loss_text": logistic(beta * (chosen - rejected)),
        "loss_image": logistic(beta * (chosen - image_rejected)),
        "loss_margin": logistic(beta * chosen - delta),
    }
    return terms["loss_text"] + lambda_image * terms["loss_image"] + lambda_margin * terms["loss_margin"], terms
