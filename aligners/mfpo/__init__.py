"""Modality-Fair Preference Optimization: image preferences, balanced objective, easy-to-hard stages."""

from aligners.mfpo.objective import MFPO, MFPOSettings

__all__ = ["MFPO", "MFPOSettings"]
