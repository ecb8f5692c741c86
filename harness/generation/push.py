"""`harness push --dataset`: a set of generated pairs on a hub, with a data card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from aligners.preferences.set_folder import (
    CONFIG,
    MANIFEST,
    done_shards,
    listed_files,
    read_manifest,
    refuse_incomplete,
)
from harness.checkpoints.push import PushRequest, check_name, sent
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.core.outgoing import without_folders
from harness.core.version import VERSION
from harness.generation.preview import is_pair_set
from harness.generation.records import PairSetManifest

_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The hub's categories of sizes: below the number, the name."""
_COLUMNS = (
    ("image, question", "the picture (bytes) and what was asked about it"),
    ("chosen, rejected", "the preferred answer and the other one"),
    ("chosen_score, rejected_score, chosen_why, rejected_why", "the judge's scores and reasons"),
    ("chosen_sample, rejected_sample", "number of the sampled answer, from 0"),
    ("chosen_spans, rejected_spans", "[start, end) of the characters that a correction changed, if the judge corrects"),
    ("shared_context, responses_end", "of sentences: the beginning of the answer that both continue; false"),
    ("objects", "known objects of the picture with their boxes, if the prompts' data has them"),
    ("judge, model, origin_dataset", "who scored, who answered, where prompt and picture come from"),
)


def push_pairs(request: PushRequest, *, dry_run: bool = False) -> dict[str, Any]:
    """Upload a set's Parquet files, its manifest and configuration, and a data card; not the answers that were not paired.

    Returns:
        A JSON-able record, as `checkpoints.push.push` gives it.

    Raises:
        BadInputError: there is no complete set of generated pairs; or as `checkpoints.push.push`.
        HarnessError: the hub refused, or could not be reached.
    """
    from huggingface_hub import HfApi

    check_name(request.repository)
    source = Path(request.checkpoint)
    if not is_pair_set(source):
        raise BadInputError(
            "this is no set of generated pairs",
            where=str(source),
            remedy="give the folder that `harness data generate -o` wrote",
        )
    refuse_incomplete(source)
    manifest = read_manifest(source / MANIFEST, PairSetManifest)
    api = HfApi(library_name="vlm-align-harness", library_version=VERSION)
    with tempfile.TemporaryDirectory(prefix="harness-push-") as name:
        folder = Path(name)
        for path in listed_files(source) or ():
            (folder / path.name).symlink_to(path.resolve())
        for path in (source / CONFIG, source / MANIFEST, *done_shards(source)):
            write_json(folder / path.name, without_folders(read_json(path, "file of the set")))
        (folder / "README.md").write_text(data_card(manifest, source.resolve().name), encoding="utf-8")
        record = sent(api, request, folder, "dataset", dry_run)
    notes = ["the card names no licence: prompts and pictures have that of their source, which may forbid sharing them"]
    return record | {"checkpoint": request.checkpoint, "kind": "dataset", "pairs": manifest.pairs, "notes": notes}


def data_card(manifest: PairSetManifest, name: str) -> str:
    """Markdown with the hub's metadata on top: what the pairs are, how they were made, and what was left out."""
    size = next((label for most, label in _SIZES if manifest.pairs < most), "1M<n<10M")
    metadata = {
        "tags": ["preference-data", "vision-language", "on-policy"],
        "task_categories": ["image-text-to-text"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": "*.parquet"}],
    }
    counts = manifest.counts
    made = {
        "model": manifest.model.written(),
        "answered_by": manifest.answered_by or None,
        "backend": manifest.backend,
        "prompts": manifest.prompts.written(),
        "sampling": manifest.sampling,
        "seed": manifest.seed,
        "judge": manifest.judge,
        "pairing": manifest.pairing,
    }
    model = without_folders(manifest.model.label)
    judge = manifest.judge.get("judge") if isinstance(manifest.judge, dict) else manifest.judge
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False).strip(),
        "---",
        "",
        f"# {name}",
        "",
        f"{manifest.pairs:,} preference pairs of answers by `{model}` to {counts.get('prompts', 0):,} prompts, scored by "
        f"the judge `{judge}`. Made by vlm-align-harness (`harness data generate`).",
        "",
        "A judge errs: an answer that is preferred here may be wrong about its picture.",
        "",
        "## Columns",
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| {columns} | {meaning} |" for columns, meaning in _COLUMNS),
        "",
        "## How they were made",
        "",
        "```yaml",
        yaml.safe_dump(
            without_folders({key: value for key, value in made.items() if value is not None}), sort_keys=False
        ).strip(),
        "```",
        "",
        "## Counts",
        "",
        *(f"- {reason}: {count:,}" for reason, count in counts.items()),
        *(f"- not judged: {count:,} times: {reason}" for reason, count in manifest.not_judged.items()),
        *(f"- left out: {line}" for line in manifest.left_out()),
        *([f"- images compared with those of: {', '.join(manifest.compared_with)}"] if manifest.compared_with else []),
    ]
    return "\n".join(lines) + "\n"
