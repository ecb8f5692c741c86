"""`harness data corrupt|preview`: make rejected images for a preference set, and show sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.align import OnError
from harness.cli.data import data_app
from harness.cli.options import Columns, ImageRoot, Json, emit
from harness.core.terminal import say

if TYPE_CHECKING:
    from aligners.rejected_images.parts import Write
    from aligners.rejected_images.records import ImageSetManifest


@data_app.command()
def corrupt(
    data: Annotated[
        str,
        typer.Argument(
            metavar="PREFS", help="Preference data: rlaif-v, rlhf-v, pocket, a .parquet or .jsonl file, or a folder."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the new set; an interrupted one is resumed.")
    ],
    corruption: Annotated[
        str | None,
        typer.Option(
            "--corruption",
            help="noise (default), blur, black, cover, shuffle, crop, pixels, whole-noise, random-regions.",
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            "--regions",
            help="dataset, grounding-dino+sam, owlv2+sam, grounding-dino, owlv2, sam3. Default: dataset if all examples have "
            "boxes, else grounding-dino+sam.",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            help="Diffusion step t of the noise, 0 to 999. Default: 500. Schedule: --set schedule=vcd|ddpm.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of method.images, e.g. top_k=3, on_nothing=drop. Repeatable.",
        ),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            "--levels",
            metavar="L1,L2,...",
            help="Make a list of rejected images per pair, for methods that rank images, at these rising shares of the corruption's "
            "strength: 0.25,0.5,0.75,1.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the set.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", help="Use a seeded sample of this many pairs.")] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Make only this part, e.g. 2/4; all parts share one folder."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Number of processes on this machine.")] = 1,
    ray: Annotated[
        int | None,
        typer.Option(
            "--ray", min=1, metavar="N", help="Use N Ray Data workers, on the cluster of RAY_ADDRESS or locally."
        ),
    ] = None,
    part_size: Annotated[int, typer.Option("--part-size", min=1, help="Examples per file.")] = 256,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace rejected images that are in the data, too.")
    ] = False,
    on_error: Annotated[
        OnError, typer.Option("--on-error", help="On an invalid record: stop, or skip and list it.")
    ] = OnError.fail,
    columns: Columns = None,
    image_root: ImageRoot = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing set.")] = False,
    as_json: Json = False,
) -> None:
    """Make a rejected image, or a list of them, for every preference: corrupt the regions that the chosen answer is about."""
    from aligners.preferences.options import DataOptions
    from aligners.preferences.set_folder import SetShard
    from aligners.rejected_images.corrupt import CorruptRequest
    from aligners.rejected_images.corrupt import corrupt as run
    from aligners.rejected_images.settings import ImagePreferenceSettings
    from harness.core.config import named_once, overrides, parse
    from harness.core.progress import console

    named = {"corruption": corruption, "regions": regions, "step": step}
    layers = named_once(overrides(settings or []), {name: value for name, value in named.items() if value is not None})
    request = CorruptRequest(
        data,
        output,
        parse(ImagePreferenceSettings, layers, "the rejected images"),
        seed,
        limit,
        on_error.value,
        SetShard.parse(shard) if shard else SetShard(),
        part_size,
        replace,
        overwrite,
        _write(workers, ray),
        DataOptions.parse(columns, image_root),
        _levels(levels) if levels is not None else (),
    )
    try:
        manifest = run(request)
    except KeyboardInterrupt:
        console.print("[yellow]stopped; finished files are kept: run the same command again to resume[/yellow]")
        raise typer.Exit(130) from None
    if as_json:
        emit(manifest.written())
    else:
        _print(manifest, output)


def _levels(text: str) -> tuple[float, ...]:
    from aligners.rejected_images.settings import checked_levels
    from harness.core.errors import BadInputError

    remedy = "--levels 0.25,0.5,0.75,1"
    try:
        levels = [float(part) for part in text.strip("[]").split(",")]
    except ValueError:
        raise BadInputError(f"--levels takes numbers with commas between them, not '{text}'", remedy=remedy) from None
    try:
        return checked_levels(levels)
    except ValueError as error:
        raise BadInputError(str(error), remedy=remedy) from None


def _write(workers: int, ray: int | None) -> Write:
    from aligners.rejected_images import parts
    from harness.core.errors import BadInputError

    if ray is not None:
        if workers > 1:
            raise BadInputError("--workers and --ray exclude each other", remedy="give only one of them")
        return parts.write_through_ray(ray)
    return parts.write_in_processes(workers) if workers > 1 else parts.write_here


def _print(manifest: ImageSetManifest, output: Path) -> None:
    counts, size = manifest.counts, sum(file.bytes or 0 for file in manifest.files)
    rows = sum(file.rows for file in manifest.files)
    number, shards = manifest.shard or (1, 1)
    what = "set" if shards == 1 else f"shard {number} of {shards}"
    made = {
        "regions": "corrupted in regions",
        "random-regions": "in random regions",
        "whole-image": "on the whole image",
        "unchanged": "the same as their original",
        "given": "from the data",
        "dropped": "dropped",
    }
    if manifest.levels:
        what += f" with {len(manifest.levels)} rejected images per example"
    say(
        f"{what}: {rows:,} examples in {len(manifest.files)} files, {size / 1e6:,.1f} MB: "
        + ", ".join(
            f"{counts.get(name, 0):,} {words}"
            for name, words in made.items()
            if counts.get(name) or name not in ("random-regions", "unchanged")
        )
    )
    if frequent := list(manifest.frequent_keywords.items())[:8]:
        say("keywords: " + ", ".join(f"{keyword} {count:,}" for keyword, count in frequent))
    if shards > 1 and not (output / "manifest.json").exists():
        there = sum((output / path.name).exists() for path in output.glob(f"shard-*-of-{shards}.json"))
        say(f"{there} of {shards} shards are done")
    else:
        say(f"preview: harness data preview {output} -o sheet.png")
        say(
            f"next: harness align --method {'|'.join(_takers(bool(manifest.levels))) or 'METHOD'} --data {output} --model MODEL"
        )


def _takers(listed: bool) -> list[str]:
    """The methods that compare rejected images, or lists of them."""
    from aligners.base import ranked_of
    from harness.core import registry
    from harness.core.errors import HarnessError

    methods = []
    for name in registry.entries("aligners"):
        try:
            images = [branch.image for branch in registry.load("aligners", name).branches]
            if ranked_of(images) if listed else "rejected" in images:
                methods.append(name)
        except HarnessError:  # the command that names it reports why
            continue
    return methods


@data_app.command()
def preview(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A set that `harness data corrupt` or `harness data generate` wrote, or any preference data, as for align.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The sheet of rejected images: a .png or .html file; the page of pairs: .html. Default: sheet.png, pairs.html.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--number", "-n", min=1, help="Number of examples.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Seed that selects the examples.")] = 0,
    columns: Columns = None,
    image_root: ImageRoot = None,
) -> None:
    """Show preference data: rejected images beside the originals, or pairs, with the judge's reasons if they were generated."""
    from aligners.preferences.options import DataOptions
    from aligners.rejected_images.preview import is_image_set
    from aligners.rejected_images.preview import preview as sheet
    from harness.core.errors import BadInputError
    from harness.generation.preview import is_pair_set, preview_pairs, preview_preferences

    folder, options = Path(data), DataOptions.parse(columns, image_root)
    if is_pair_set(folder):
        if columns or image_root:
            raise BadInputError(
                "--columns and --image-root have no effect on a set of generated pairs", remedy="leave them out"
            )
        output = output or Path("pairs.html")
        say(f"{output}: {preview_pairs(folder, output, count, seed)} pairs")
    elif is_image_set(folder, options, made_elsewhere=output is not None and output.suffix == ".png"):
        if image_root:
            raise BadInputError("--image-root has no effect on a set that holds its images", remedy="leave it out")
        output = output or Path("sheet.png")
        say(f"{output}: {sheet(folder, output, count, seed, options)} examples")
    else:
        output = output or Path("pairs.html")
        say(f"{output}: {preview_preferences(data, output, count, seed, options)} pairs")
