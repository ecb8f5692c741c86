"""What takes a backend's place where answers come from another tool: there is nothing to ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from harness.core.errors import BadInputError
from harness.serving.base import Backend, Completion, Request


class ImportedAnswersBackend(Backend):
    """Answers nothing. It is not registered, so no command can choose it; `serving.json` of imported answers names it."""

    name = "imported"

    @classmethod
    def missing(cls) -> str | None:
        """Nothing is missing."""
        return None

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to close."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Refuse: these answers come from another tool.

        Raises:
            BadInputError: always.
        """
        raise BadInputError("imported answers have no model that could be asked", remedy="harness import-results")

    def provenance(self) -> dict[str, Any]:
        """What score files say of the engine."""
        return {
            "backend": self.name,
            "device": "unknown",
            "note": "the answers were imported from another tool's files",
        }
