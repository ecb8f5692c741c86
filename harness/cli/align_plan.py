"""What `harness align --dry-run` prints."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from harness.core.memory import written_bytes
from harness.core.progress import duration
from harness.core.terminal import Console, say


def _print_download(plan: dict[str, Any]) -> None:
    """Print the necessary downloads; without them nothing else can be estimated."""
    say(f"{plan['method']} on {plan['model']}: these would be downloaded (nothing was)")
    for download in plan["download"]:
        size = "of unknown size" if download["bytes"] is None else written_bytes(download["bytes"])
        say(f"  {'data set' if download['kind'] == 'dataset' else download['kind']} {download['name']}: {size}")
    say(f"{written_bytes(plan['free'])} are free. Download them to get estimates of steps, tokens, memory and time:")
    for download in plan["download"]:
        say(f"  hf download {download['name']}{' --repo-type dataset' if download['kind'] == 'dataset' else ''}")


def print_align_plan(plan: dict[str, Any]) -> None:
    """Print the plan as a table of two columns, and below it what is estimated."""
    if plan["download"]:
        _print_download(plan)
        return
    tokens, step, memory, disk = plan["tokens"], plan["step"], plan["memory"], plan["disk"]
    title = f"{plan['method']} on {plan['model']}: training plan (nothing was trained)"
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    dropped = f", {plan['examples']['dropped']:,} dropped" if plan["examples"]["dropped"] else ""
    table.add_row("examples", f"{plan['examples']['count']:,}{dropped} ({escape(str(plan['data']))})")
    cut = f"; {tokens['responses_cut']:,} responses are truncated" if tokens["responses_cut"] else ""
    table.add_row(
        "tokens",
        f"{tokens['epoch']:,} per epoch ({tokens['epoch_with_padding']:,} with padding), {tokens['mean_example']:,} per example, "
        f"longest row {tokens['longest_row']:,}{cut}",
    )
    for stage in plan["stages"]:
        table.add_row(escape(f"stage {stage['name']}"), f"{stage['examples']:,} examples, {stage['steps']:,} steps")
    passes = "1 pass" if step["passes"] == 1 else f"{step['passes']} passes"
    again = ", gradient checkpointing" if step["gradient_checkpointing"] else ""
    chosen = "; chosen for the available memory (train.micro_batch_size=auto)" if step["chosen"] else ""
    table.add_row("step", f"{step['batch_size']} examples: {passes} of {step['micro_batch_size']}{again}{chosen}")
    parts = ("weights", "gradients", "optimizer", "activations", "features", "program")
    detail = ", ".join(f"{name} {written_bytes(memory[name])}" for name in parts if memory[name])
    fits = "" if memory["fits"] else " [red](does not fit)[/red]"
    table.add_row(
        "peak memory",
        f"{written_bytes(memory['predicted_peak'])} of {written_bytes(memory['available'])} {memory['where']}{fits}: {detail}",
    )
    table.add_row("largest micro-batch", largest_micro_batch(memory, step))
    kinds = ("checkpoint", "while_training", "reference_cache", "rejected_images")
    room = ", ".join(f"{name.replace('_', ' ')} {written_bytes(disk[name])}" for name in kinds if disk[name])
    table.add_row("disk", f"{room}; {written_bytes(disk['free'])} free")
    if clock := plan["time"]:
        kinds = ("training", "reference", "images_once", "difficulty")
        detail = ", ".join(f"{name.replace('_', ' ')} {duration(clock[name])}" for name in kinds if clock[name])
        table.add_row("time", f"about {duration(clock['seconds'])} on this machine: {detail}")
    console = Console()
    console.print(table)
    for line in (
        *([f"measured: {clock['measured']}"] if clock else []),
        *(f"estimated: {line}" for line in plan["estimated"]),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def largest_micro_batch(memory: dict[str, Any], step: dict[str, Any]) -> str:
    """How many examples per forward pass would fit, and the other setting that this needs, of the plan's `memory` and `step`."""
    if not memory["largest_micro_batch"]:
        return "none fits with some room to spare"
    # With a number, checkpointing that the settings leave open would be off.
    needs = " with train.gradient_checkpointing=true" if step["gradient_checkpointing"] else ""
    return f"{memory['largest_micro_batch']} fits{needs}, with some room to spare"
