"""The model card of an aligned checkpoint: what it is, how it was made, what it scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from harness.checkpoints.model_index import TASK, model_index
from harness.core.outgoing import without_folders
from harness.models.aliases import is_hub_id
from harness.records.manifest_file import AlignConfig, CardManifest
from harness.records.score_files import ScoresRecord


def model_card(manifest: CardManifest, method: Mapping[str, str], scores: Sequence[ScoresRecord]) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        manifest: of the run.
        method: the aligner's `summary`, `source` and `ours`.
        scores: score records of the run (`runs.score`); if there are none, the card says so.
    """
    kind, base = manifest.checkpoint.kind, manifest.base.location
    config = AlignConfig.model_validate(without_folders(manifest.config.written()))
    metadata = {
        # Only a name on the hub: the hub refuses a card whose base is a folder.
        **({"base_model": base} if is_hub_id(base) else {}),
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": TASK,
        "tags": ["vision-language", "preference-optimization", config.method],
        **({"model-index": index} if (index := model_index(str(manifest.name or config.model), scores)) else {}),
    }
    data = manifest.summary.data
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {config.model}, aligned with {config.method}",
        "",
        f"A {'LoRA adapter for' if kind == 'adapter' else 'vision-language model from'} `{config.model}`, aligned by vlm-align-harness "
        f"{manifest.harness}.",
        "",
        f"- Method: `{config.method}`, {method['summary']} ({method['source']})",
        *([f"- Not the paper's: {method['ours']}"] if method.get("ours") else []),
        *([f"- Started from the checkpoint of the run `{config.start.run}`"] if config.start is not None else []),
        *([f"- After its stage `{config.stage}`"] if config.stage is not None else []),
        f"- Preference data: `{config.data}`, {data.examples:,} pairs, fingerprint `{data.fingerprint[:16]}`",
        f"- Weights: base model `{manifest.base.fingerprint[:16]}`, this checkpoint `{manifest.checkpoint.fingerprint[:16]}`",
        f"- Made {manifest.finished[:10]} in {manifest.wall_seconds:,.0f} s"
        + (" (after the last interruption)" if manifest.resumed else "")
        + " on "
        + (", ".join(manifest.hardware.gpus) or f"{manifest.hardware.cores} CPU cores"),
        "",
        "## Settings",
        "",
        "```yaml",
        yaml.safe_dump(config.settings, sort_keys=False).strip(),
        "```",
        "",
        "## Scores",
        "",
        *score_lines(scores),
    ]
    return "\n".join(lines) + "\n"


def score_lines(scores: Sequence[ScoresRecord]) -> list[str]:
    """The headline metrics as a table in Markdown; a sentence if there are none."""
    if not scores:
        return ["Not scored yet. What a model of this kind says about an image may be wrong."]
    lines = ["| suite | metric | value | 95 % interval | n |", "|---|---|---|---|---|"]
    for record in scores:
        for metric in record.metrics.values():
            if metric.headline and metric.value is not None:
                factor = 100 if metric.unit == "%" else 1
                interval = " to ".join(f"{factor * bound:.1f}" for bound in metric.ci or ())
                cells = [
                    f"{record.suite} ({record.data})",
                    metric.title,
                    f"{factor * metric.value:.1f}",
                    interval,
                    str(record.n),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "95 % bootstrap confidence intervals over images."]
