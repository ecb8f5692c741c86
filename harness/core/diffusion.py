"""Diffusion noise of one step: how much of an image remains under the schedules that papers use, and on which scale noise is added.

MFPO's paper gives the formula x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps and step 500; its schedule is in a supplement
that nobody has published. That it is VCD's is our inference: the paper's own test of clean against noised images cites VCD, and the
public code of POVID, CHiP and TARS takes that schedule with step 500, too.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

STEPS = 1000
"""Steps of both schedules."""

Schedule = Literal["vcd", "ddpm"]
Scale = Literal["clip", "unit"]

_SCALES: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "unit": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation per channel, of pixels in [0, 1], by which an image is normalised before noise is added: CLIP's own
(Radford et al., ICML 2021), and those that make the scale [-1, 1]."""


@functools.cache
def _left(schedule: Schedule) -> np.ndarray:
    """alpha_bar of all steps as float64 [STEPS + 1] (ddpm, from t = 0: no noise yet) or [STEPS] (vcd)."""
    if schedule == "ddpm":
        return np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, STEPS))])
    beta = (5e-3 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, STEPS))) + 1e-5
    return np.cumprod(1 - beta)


def alpha_bar(step: int, schedule: Schedule) -> float:
    """Share of the image's variance that is left after a step.

    Args:
        step: t. For `ddpm` 0 to 1000, the product of (1 - beta_s) over s = 1..t; for `vcd` 0 to 999, over s = 0..t, since VCD's
            code counts from 0.
        schedule: `ddpm`: beta linear from 1e-4 to 0.02 (Ho et al., NeurIPS 2020, section 4); alpha_bar(500) = 0.079.
            `vcd`: beta = sigmoid(linspace(-6, 6)) (5e-3 - 1e-5) + 1e-5 (Leng et al., CVPR 2024); alpha_bar(500) = 0.745.

    Raises:
        ValueError: the schedule has no such step.
    """
    left = _left(schedule)
    if not 0 <= step < len(left):
        raise ValueError(f"the schedule '{schedule}' has steps 0 to {len(left) - 1}, not {step}")
    return float(left[step])


def random_numbers(seed: str) -> np.random.Generator:
    """The random generator that is seeded by a text, the same on every machine."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")))


@dataclass(frozen=True)
class Diffusion:
    """The noise of one step of a schedule, on a scale."""

    step: int = 500
    schedule: Schedule = "vcd"
    scale: Scale = "clip"

    def __post_init__(self) -> None:
        alpha_bar(self.step, self.schedule)

    @property
    def kept(self) -> float:
        """alpha_bar of the step."""
        return alpha_bar(self.step, self.schedule)

    def add(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps on the normalised scale, rounded to pixels again.

        Args:
            pixels: uint8 [n, 3].
            rng: of the noise.

        Returns:
            uint8 [n, 3]. Values outside of the range of pixels are clipped, unlike noise that is added to a model's input.
        """
        mean, deviation = (255 * np.array(values) for values in _SCALES[self.scale])
        kept = np.sqrt(self.kept)
        # With x = (pixel - mean) / deviation: pixel_t = kept * pixel + (1 - kept) * mean + deviation * sqrt(1 - alpha_bar) * eps.
        noisy = pixels.astype(np.float32)
        eps = rng.standard_normal(pixels.shape, dtype=np.float32)
        noisy *= np.float32(kept)
        noisy += ((1 - kept) * mean).astype(np.float32)
        eps *= (deviation * np.sqrt(1 - self.kept)).astype(np.float32)
        noisy += eps
        return np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy).astype(np.uint8)
