"""Families whose published checkpoints need Python code from their own folder: they can be neither evaluated nor aligned here."""

from __future__ import annotations

from collections.abc import Mapping

CODE_FAMILIES: Mapping[str, tuple[str, str]] = {
    "chatglm": ("GLM-4V-9B", "use GLM-4.1V"),
    "deepseek_vl_v2": ("DeepSeek-VL2", ""),
    "internvl_chat": ("InternVL in its first layout", "use the checkpoint with -HF in its name"),
    "kimi_vl": ("Kimi-VL", ""),
    "llavaonevision1_5": ("LLaVA-OneVision-1.5", ""),
    "minicpmv": ("MiniCPM-V up to 4.5", ""),
    "molmo": ("Molmo", ""),
    "molmo2": ("Molmo 2", ""),
    "phi4mm": ("Phi-4-multimodal", ""),
}
"""`model_type` -> models, and what to use in their place."""
NEVER_RUN = "needs Python code from its own folder, and such code is never run"
