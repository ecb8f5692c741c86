"""Records of Every Eval Ever, the common format of evaluation results, with the uncertainty of every score.

Source: `every_eval_ever/schemas/eval.schema.json` of the repository evaleval/every_eval_ever, version 0.3.0, which
`tests/harness/publishing` has and validates against. A score without a better direction (the share of "yes", a length) is left out,
because the schema requires one.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from harness.checkpoints.model_index import LEVEL
from harness.core.files import sha256_json
from harness.core.stats import RESAMPLES
from harness.core.version import VERSION
from harness.models import is_hub_id
from harness.records.score_files import MetricRecord, ScoresRecord
from harness.runs.folders import Run

SCHEMA = "0.3.0"
LIBRARY = "vlm-align-harness"
Relationship = Literal["first_party", "third_party", "collaborative", "other"]


def eval_record(
    run: Run, scores: ScoresRecord, organisation: str, relationship: Relationship, now: float | None = None
) -> dict[str, Any]:
    """The record of one score file.

    Args:
        run: the run.
        scores: its scores of one suite.
        organisation: who ran the evaluation; for an aligned checkpoint also who made it.
        relationship: of the evaluator to the model.
        now: seconds since 1970 at which the record is written; None: the present time.
    """
    model = model_info(run, scores, organisation)
    stamp = f"{time.time() if now is None else now:.0f}"
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{scores.suite}/{model['id']}/{stamp}",
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": LIBRARY,
            "source_type": "evaluation_run",
            "source_organization_name": organisation,
            "evaluator_relationship": relationship,
        },
        "eval_library": {"name": LIBRARY, "version": VERSION},
        "model_info": model,
        "evaluation_results": [
            _result(scores, metric_id, metric)
            for metric_id, metric in scores.metrics.items()
            if metric.value is not None and metric.higher_is_better is not None
        ],
    }


def model_info(run: Run, scores: ScoresRecord, organisation: str) -> dict[str, Any]:
    """The model: a base model by its hub id, an aligned checkpoint by the organisation and the run's name."""
    manifest = run.manifest
    assert manifest is not None
    location = str(manifest.base.location or "")
    on_hub = is_hub_id(location) and "/" in location
    identity = location if on_hub and not run.aligned else f"{organisation}/{run.name}"
    remote = run.kind == "endpoint"
    weights = {"base": run.base_label, "base weights": manifest.base.fingerprint}
    aligned = {
        "method": scores.method,
        "training data": (manifest.config or {}).get("data"),
        "weights": manifest.checkpoint.fingerprint if manifest.checkpoint else None,
    }
    return {
        "name": run.name,
        "id": identity,
        "developer": identity.partition("/")[0],
        "inference_engine": {"name": scores.serving.backend, "version": scores.serving.distribution or "unknown"},
        "additional_details": {
            "deployment_type": "externally_managed" if remote else "self_deployed",
            "model_availability": "open_weights" if on_hub and not run.aligned else "unknown",
            **_texts({**weights, **(aligned if run.aligned else {})}),
        },
    }


def place_of(record: Mapping[str, Any], suite: str) -> str:
    """The path of a record in the format's repository: `data/SUITE/DEVELOPER/MODEL/UUID.json`. The same scores have the same UUID."""
    developer, _, name = str(record["model_info"]["id"]).partition("/")
    content = {key: value for key, value in record.items() if key not in ("evaluation_id", "retrieved_timestamp")}
    digest = hashlib.sha256(sha256_json(content).encode()).digest()
    return f"data/{suite}/{developer}/{name}/{uuid.UUID(bytes=digest[:16], version=4)}.json"


def _result(scores: ScoresRecord, metric_id: str, metric: MetricRecord) -> dict[str, Any]:
    assert metric.value is not None
    sampling = scores.sampling
    numbers = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
    return {
        "evaluation_result_id": f"{scores.suite}.{scores.variant or 'plain'}.{metric_id}",
        "evaluation_name": scores.title or scores.suite,
        "source_data": {
            "dataset_name": scores.title or scores.suite,
            "source_type": "other",
            "additional_details": _texts({"data": scores.data, **_hashes(scores.files or {})}),
        },
        "metric_config": {
            "metric_id": f"{scores.suite}.{metric_id}",
            "metric_name": metric.title,
            "metric_unit": "proportion" if metric.unit == "%" else metric.unit,
            "lower_is_better": not metric.higher_is_better,
            "score_type": "continuous",
            "min_score": 0 if metric.unit == "%" and min([metric.value, *(metric.ci or [])]) >= 0 else None,
            "max_score": 1 if metric.unit == "%" else None,
            "additional_details": _texts(
                {"variant": scores.variant, "judge": scores.judge.model or scores.judge.judge if scores.judge else None}
            ),
        },
        "score_details": {
            "score": metric.value,
            "details": _texts(
                {"items": scores.n, "items of the suite": scores.of, "unscored": scores.unscored}
                | {"printed by the official script": metric.official}
            ),
            **({"uncertainty": _uncertainty(scores, metric)} if metric.ci else {}),
        },
        "generation_config": {
            "generation_args": {
                name: value for name, value in numbers.items() if isinstance(value, int | float) and value is not None
            },
            "additional_details": _texts({"seed": sampling.seed}),
        },
    }


def _uncertainty(scores: ScoresRecord, metric: MetricRecord) -> dict[str, Any]:
    assert metric.ci is not None
    interval = {"lower": metric.ci[0], "upper": metric.ci[1], "confidence_level": LEVEL}
    return {
        "confidence_interval": interval | {"method": "percentile bootstrap over images"},
        "num_samples": scores.n,
        "num_bootstrap_samples": RESAMPLES,
    }


def _hashes(files: Mapping[str, Any]) -> dict[str, Any]:
    """SHA-256 of the suite's files, by name."""
    return {f"sha256 of {name}": about.get("sha256") for name, about in files.items() if isinstance(about, Mapping)}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """The values that are there, as texts, which the schema requires."""
    return {name: str(value) for name, value in values.items() if value is not None and value != ""}
