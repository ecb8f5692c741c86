"""MFPO's own ranking of keywords: a graph of the response's words, weighted by distance in the text and similarity of meaning.

    theta_ij = sum over occurrences of 1 / (1 + |l_i - l_j|^phi)        how near two words are in the text
    sigma_ij = gamma cos(v_i, v_j)                                      how similar their vectors are
    omega_ij = (theta_ij + sigma_ij) exp(-lambda l_i)                   early words count more
    r(i) = (1 - alpha) + alpha sum_j omega_ij r(j) / sum_m omega_jm     from r = 1 - alpha, until it converges

Source: Jiang et al., IJCAI 2025 (MFPO), section 3.1.
Ours, since the paper gives no value or formula: phi, gamma, lambda, alpha and the number of keywords; that "related words" have no
further effect (theta + sigma is used unchanged); that l_i in the last factor is a word's first position; that negative cosines count as
0, so that all weights are non-negative; which words are nodes (nouns if a tagger is installed, else words that are not places or
colours); and that chosen words which are adjacent in the text are joined to one keyword ("fire", "hydrant"), because a detector needs
names of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GraphConstants:
    """The constants of the graph; their values are ours."""

    phi: float = 1.0
    gamma: float = 1.0
    lambda_: float = 0.02
    alpha: float = 0.85


def graph_weights(
    places: Sequence[Sequence[int]], vectors: np.ndarray | None, constants: GraphConstants = GraphConstants()
) -> np.ndarray:
    """omega [words, words], 0 on the diagonal.

    Args:
        places: for every word the positions of its occurrences in the text (indices of tokens from 0, so punctuation counts), in ascending
            order.
        vectors: [words, d], or None: sigma is 0 then.
        constants: phi, gamma and lambda.
    """
    count = len(places)
    theta = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            apart = np.abs(np.subtract.outer(np.asarray(places[i], float), np.asarray(places[j], float)))
            theta[i, j] = theta[j, i] = (1 / (1 + apart**constants.phi)).sum()
    sigma = np.zeros_like(theta)
    if vectors is not None:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, norms, out=np.zeros_like(vectors, float), where=norms > 0)
        sigma = constants.gamma * np.maximum(unit @ unit.T, 0)
    first = np.array([occurrences[0] for occurrences in places], float)
    omega: np.ndarray = (theta + sigma) * np.exp(-constants.lambda_ * first)[:, None]
    np.fill_diagonal(omega, 0)
    return omega


def graph_rank(omega: np.ndarray, alpha: float = GraphConstants.alpha) -> np.ndarray:
    """r [words], by iteration from 1 - alpha.

    It converges for every alpha < 1: apart from a factor per word, which cancels, the weights are symmetric, so the matrix of the
    iteration is similar to alpha times a stochastic matrix. A word without neighbours keeps 1 - alpha.

    Args:
        omega: [words, words], from `graph_weights`.
        alpha: share of a word's rank that comes from its neighbours.
    """
    sums = omega.sum(1)  # of word j: sum_m omega_jm
    step = omega / np.where(sums > 0, sums, 1)[None, :]
    rank = np.full(len(omega), 1 - alpha)
    for _ in range(1000):
        following = (1 - alpha) + alpha * step @ rank
        if np.abs(following - rank).max(initial=0) < 1e-12:
            return following
        rank = following
    return rank
