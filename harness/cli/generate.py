"""`harness data generate`: preference pairs from a model's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.align import OnError
from harness.cli.data import data_app
from harness.cli.options import Columns, ImageRoot, Json, Results, Settings, emit
from harness.core.terminal import say

if TYPE_CHECKING:
    from harness.generation.records import PairSetManifest
    from harness.runs.targets import Target
    from harness.serving.base import Backend


@data_app.command()
def generate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A base model, a run by name or folder, or with --endpoint its name there."
        ),
    ],
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            help="Preference data, a .jsonl of {image, prompt}, or a folder of images.",
        ),
    ],
    judge: Annotated[str, typer.Option("--judge", help="Who scores the answers; see `harness list candidate-judges`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the set. The same command resumes it.")],
    samples: Annotated[int | None, typer.Option("--samples", help="Answers per prompt. Default: 10.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Temperature of the sampling. Default: 0.7.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", help="Maximum number of pairs per prompt. Default: 2.")
    ] = None,
    how: Annotated[str | None, typer.Option("--how", help="Which pairs: random (default) or best-worst.")] = None,
    min_gap: Annotated[
        float | None, typer.Option("--min-gap", help="Smallest difference of scores. Default: the judge's own.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="For the judge chair: folder of COCO's annotations.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="vllm, transformers, openai or a plugin's. Default: vllm if installed."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="OpenAI-compatible endpoints that serve MODEL, comma-separated.")
    ] = None,
    settings: Settings = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--held-out",
            help="Benchmark data root whose images are left out. Default: the cache folder's; see `harness data get`.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sampling and of the pairs.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use a seeded sample of this many prompts.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Process only this part, e.g. 2/4; all parts share one folder."),
    ] = None,
    ray: Annotated[
        int | None,
        typer.Option(
            "--ray",
            min=1,
            metavar="N",
            help="Sample with N Ray Data workers, each with an engine, on the cluster of RAY_ADDRESS or locally.",
        ),
    ] = None,
    answers_of: Annotated[
        Path | None,
        typer.Option(
            "--answers-of",
            metavar="PAIRS",
            help="Folder of another set: its answers to the same requests, and its verdicts by the same judge, are taken.",
        ),
    ] = None,
    part_size: Annotated[int, typer.Option("--part-size", min=1, help="Prompts per file.")] = 256,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Download images that preference data gives by URL.")
    ] = False,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="On an invalid record of the prompts: stop, or skip and count it.")
    ] = OnError.fail,
    columns: Columns = None,
    image_root: ImageRoot = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a whole set with other settings, not one shard of it; answers to the same requests are kept.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked, and what it costs; ask and write nothing.")
    ] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Make preference pairs from a model's own answers: sample several, let a judge score them, pair better with worse."""
    from aligners.preferences.options import DataOptions
    from aligners.preferences.set_folder import SetShard
    from harness.core import registry
    from harness.core.config import named_once, overrides, parse
    from harness.core.errors import BadInputError
    from harness.core.ray_data import check_ray
    from harness.generation.candidates import CandidateSampler
    from harness.generation.generate import generate as run
    from harness.generation.held_out import held_out_sets
    from harness.generation.plan import plan_generation
    from harness.generation.settings import PairSettings, SampleSettings
    from harness.generation.work import GenerateRequest
    from harness.serving.choose import choose_backend

    if ray is not None:
        check_ray("sample in several jobs with --shard I/N")
    kind = registry.load("candidate_judges", judge)
    named = {
        "sample": _given(samples=samples, temperature=temperature),
        "pair": _given(per_prompt=pairs, how=how, min_gap=min_gap),
        "judge": _given(annotations=None if annotations is None else str(annotations)),
        "backend": {"endpoints": endpoint.split(",")} if endpoint else {},
    }
    layers = named_once(overrides(settings or []), named)
    if unknown := sorted(set(layers) - {"sample", "pair", "judge", "backend"}):
        raise BadInputError(f"unknown group of settings '{unknown[0]}'", remedy="groups: sample, pair, judge, backend")
    engine = choose_backend("openai" if endpoint and not backend else backend)
    target = _target(model, results, engine)
    request = GenerateRequest(
        CandidateSampler(
            target,
            engine,
            parse(engine.Settings, layers["backend"], f"backend {engine.name}"),
            parse(SampleSettings, layers["sample"], "sample"),
            seed,
        ),
        prompts,
        kind(parse(kind.Settings, layers["judge"], f"judge {judge}")),
        parse(PairSettings, layers["pair"], "pair"),
        output,
        limit=limit,
        shard=SetShard.parse(shard) if shard else SetShard(),
        part_size=part_size,
        allow_download=allow_download,
        options=DataOptions.parse(columns, image_root),
        held_out=held_out_sets(held_out),
        overwrite=overwrite,
        ray=ray,
        answers_of=answers_of,
        on_error=on_error.value,
    )
    if dry_run:
        plan = plan_generation(request)
        emit(plan) if as_json else _show_plan(plan)
        return
    manifest = run(request)
    if as_json:
        emit(manifest.written())
        return
    _show(manifest, output, "MODEL" if target.remote else target.model)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _target(model: str, results: Path, engine: type[Backend]) -> Target:
    """The run with this name, or else the model.

    Raises:
        BadInputError: the run is not complete, or there is no such model.
    """
    from harness.models import resolve
    from harness.runs.folders import open_run, refuse_begun
    from harness.runs.targets import target_of, target_of_endpoint, target_of_model

    if engine.remote:
        return target_of_endpoint(model, results)
    for folder in (results / model, Path(model)):
        if (folder / "manifest.json").is_file() and (run := open_run(folder)).manifest is not None:
            return target_of(run)
        refuse_begun(folder, model)
    return target_of_model(resolve(model), results)


def _show_plan(plan: dict[str, Any]) -> None:
    """Print the plan, one line for each subject."""
    missing = plan["answers"] - plan["kept"]
    each = " for the first sentence of each; more follow" if plan["per_sentence"] else ""
    say(f"prompts: {plan['prompts']:,}; answers: {missing:,} to sample{each}, {plan['kept']:,} kept")
    read = "an unknown number of" if plan["prompt_tokens"] is None else f"{plan['prompt_tokens']:,}"
    mean = "" if plan["new_tokens"] is None else f", {plan['new_tokens']:,} by the answers so far"
    say(f"tokens: {read} to read; at most {plan['new_tokens_at_most']:,} to write{mean}")
    if not plan["judge_calls"]:
        say(f"judge {plan['judge']}: no requests, or all are kept")
        return
    usd = "unknown" if plan["judge_usd_at_most"] is None else f"at most {plan['judge_usd_at_most']:.2f} US dollars"
    say(
        f"judge {plan['judge']}: {plan['judge_calls']:,} requests, about {plan['judge_prompt_tokens']:,} tokens to read, at most "
        f"{plan['judge_completion_tokens_at_most']:,} to write; price: {usd}"
    )


def _show(manifest: PairSetManifest, output: Path, model: str) -> None:
    """Print what was made, and the next command."""
    from aligners.preferences.set_folder import MANIFEST, done_shards

    counts, balance = manifest.counts, manifest.length_balance
    say(f"{manifest.pairs:,} pairs of {counts['prompts']:,} prompts in {output}")
    reasons = ("could not be answered", "refused", "empty", "cut off", "not judged", "repeated")
    left = ", ".join(f"{counts[name]:,} {name}" for name in reasons if counts.get(name))
    say(f"answers: {counts['answers']:,}, of which {counts['usable']:,} can be paired{f' ({left})' if left else ''}")
    if counts.get("prompts without a pair"):
        say(f"prompts without a pair: {counts['prompts without a pair']:,}")
    for reason, count in manifest.not_judged.items():
        say(f"  not judged: {count:,} times: {reason}")
    if not isinstance(balance, list):
        chosen, rejected = balance.mean_words
        say(
            f"words: chosen {chosen}, rejected {rejected} on average; {balance.left_out:,} pairs left out to balance them"
        )
    for line in manifest.left_out():
        say(f"left out: {line}")
    if manifest.invalid_records:
        say(f"left out: {manifest.invalid_records:,} invalid records of the prompts")
    if not (output / MANIFEST).exists():
        say(f"{len(done_shards(output))} of {manifest.shards} shards are done")
        return
    say(f"preview: harness data preview {output}")
    say(f"next: harness align --method METHOD --model {model} --data {output}")
