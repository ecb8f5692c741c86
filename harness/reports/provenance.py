"""Where the numbers of a report come from: dates, versions, settings, seeds and commands of the runs, and what answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from harness.analysis.scored import scored
from harness.analysis.text_table import TextTable
from harness.runs.folders import Run


@dataclass(frozen=True)
class RunProvenance:
    """A run's settings, as YAML, below the tables."""

    name: str
    settings: str


def provenance(runs: Sequence[Run]) -> tuple[list[TextTable], list[RunProvenance]]:
    """Tables of the runs and of their scores, and the settings of the aligned ones."""
    made: list[tuple[str, ...]] = []
    measured: list[tuple[str, ...]] = []
    settings: list[RunProvenance] = []
    for run in runs:
        manifest = run.manifest
        assert manifest is not None
        config = manifest.config or {}
        train = config.get("settings", {}).get("train", {})
        hardware = manifest.hardware or {}
        machine = ", ".join(hardware.get("gpus") or []) or (f"{hardware['cores']} cores" if "cores" in hardware else "")
        version = " ".join(part for part in (manifest.harness, manifest.commit and manifest.commit[:12]) if part)
        made.append(
            _texts(
                run.name,
                manifest.finished[:16].replace("T", " "),
                version,
                config.get("method") or run.kind,
                run.base_label,
                config.get("data"),
                train.get("seed"),
                machine,
                " ".join(map(str, manifest.command or ())),
            )
        )
        if config.get("settings"):
            settings.append(RunProvenance(run.name, yaml.safe_dump(config["settings"], sort_keys=False).strip()))
        for score in scored(run)[0]:
            record = score.record
            backend = record.serving
            measured.append(
                _texts(
                    run.name,
                    f"{record.suite} ({record.data})",
                    record.variant,
                    f"{record.n} of {record.of}",
                    backend.distribution or backend.backend,
                    " ".join(part for part in (backend.device, backend.dtype) if part),
                    record.sampling.temperature,
                    record.sampling.seed,
                    record.sampling.max_new_tokens,
                    (record.judge.model or record.judge.judge) if record.judge else None,
                )
            )
    heads = ("checkpoint", "finished (UTC)", "version", "method", "base", "training data", "seed", "machine", "command")
    asked = ("checkpoint", "suite", "variant", "items", "backend", "device", "temperature", "seed", "tokens", "judge")
    tables = [TextTable("How the checkpoints were made", heads, tuple(made), "")]
    if measured:
        tables.append(TextTable("How the answers were made and scored", asked, tuple(measured), ""))
    return tables, settings


def _texts(*values: Any) -> tuple[str, ...]:
    """Cells; a dash stands for what was not recorded."""
    return tuple("–" if value is None or value == "" else str(value) for value in values)
