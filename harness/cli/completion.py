"""What the shell offers for values of options: names of methods, suites, models and recipes; of a list, for its last part."""

from __future__ import annotations

from collections.abc import Iterable


def methods(incomplete: str) -> list[str]:
    """Methods that begin like this."""
    from harness.core import registry

    return _beginning(incomplete, registry.entries("aligners"))


def suites(incomplete: str) -> list[str]:
    """Suites, of a comma-separated list."""
    from harness.core import registry

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(last, registry.entries("benchmarks"))]


def models(incomplete: str) -> list[str]:
    """Aliases of models."""
    from harness.models.aliases import aliases

    return _beginning(incomplete, aliases())


def recipes(incomplete: str) -> list[str]:
    """Shipped recipes; files are not offered."""
    from harness.alignment.recipes import shipped

    return _beginning(incomplete, shipped())


def _beginning(text: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(text)]
