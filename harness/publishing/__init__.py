"""Results for others: a card with machine-readable scores, records of Every Eval Ever, and a run's scores to compare with."""

from harness.publishing.everywhere import publish_everywhere
from harness.publishing.folder import Publication, publish

__all__ = ["Publication", "publish", "publish_everywhere"]
