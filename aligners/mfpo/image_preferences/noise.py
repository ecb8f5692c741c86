"""Forward diffusion in closed form, inside masks; outside of them the image is untouched, bit for bit."""

from __future__ import annotations

import hashlib

import numpy as np

STEPS = 1000


def alpha_bar(step: int) -> float:
    """Product of (1 - beta_s) over s = 1..step, for the linear schedule from 1e-4 to 0.02 over 1000 steps.

    Source: Ho et al., NeurIPS 2020, section 4.
    """
    return float(np.prod(1 - np.linspace(1e-4, 0.02, STEPS)[:step]))


def diffuse(image: np.ndarray, mask: np.ndarray, step: int, seed: str) -> np.ndarray:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps inside the mask.

    Args:
        image: uint8 [height, width, 3]; scaled to [-1, 1] for the noise.
        mask: bool [height, width].
        step: t, 1 to 1000.
        seed: text that the noise is drawn from, e.g. the example's id with the run's seed.

    Returns:
        uint8 [height, width, 3], a copy.
    """
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")))
    kept = alpha_bar(step)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    noisy = np.sqrt(kept) * (image.astype(np.float32) / 127.5 - 1) + np.sqrt(1 - kept) * noise
    result = image.copy()
    result[mask] = np.clip(np.rint((noisy[mask] + 1) * 127.5), 0, 255).astype(np.uint8)
    return result
