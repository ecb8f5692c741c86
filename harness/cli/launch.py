"""`harness launch`: an alignment in several processes, with accelerate and a profile that ships with the harness."""

from __future__ import annotations

import os
import shlex
import sys
from enum import StrEnum
from typing import Annotated

import typer

from harness.cli.options import ALIGN, app
from harness.core.terminal import say


class Sharding(StrEnum):
    """What is sharded over the processes."""

    none = "none"
    zero2 = "zero2"
    fsdp = "fsdp"


_PROFILES = {Sharding.none: "ddp.yaml", Sharding.zero2: "zero2.yaml", Sharding.fsdp: "fsdp.yaml"}

_PATIENCE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
"""Variable of torch's launcher: seconds between a Ctrl-C and the moment when it kills the processes, 30 if it is not set. A step and a
checkpoint of large models take longer."""


@app.command(
    rich_help_panel=ALIGN,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def launch(
    context: typer.Context,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Number of GPUs, of all machines together.")],
    sharding: Annotated[
        Sharding,
        typer.Option(
            "--sharding",
            help="none: the whole model on every GPU (DDP). zero2: shard gradients and optimizer state (DeepSpeed). "
            "fsdp: shard the weights, too (FSDP 2).",
        ),
    ] = Sharding.none,
    machines: Annotated[
        int, typer.Option("--machines", min=1, help="Number of machines; run the command on each.")
    ] = 1,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Index of this machine, from 0.")] = 0,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Address of machine 0, if there are several.")
    ] = None,
    print_command: Annotated[bool, typer.Option("--print", help="Print the accelerate command and exit.")] = False,
) -> None:
    """Run `align` on several GPUs: harness launch --processes 8 align --name NAME ..."""
    command = launch_command(context.args, processes, sharding, machines, rank, address)
    if print_command:
        say(shlex.join(command))
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, {_PATIENCE: "1800", **os.environ})


def launch_command(
    arguments: list[str],
    processes: int,
    sharding: Sharding = Sharding.none,
    machines: int = 1,
    rank: int = 0,
    address: str | None = None,
) -> list[str]:
    """The command that runs an alignment in several processes.

    Args:
        arguments: `align` and its options.
        processes: number of processes on all machines together.
        sharding: what is sharded over the processes.
        machines: number of machines.
        rank: index of this machine, from 0.
        address: HOST:PORT of machine 0.

    Raises:
        BadInputError: the arguments are those of another command, the run has no name, or the numbers are inconsistent.
    """
    from harness.core.errors import BadInputError
    from harness.core.paths import PACKAGE

    if not arguments or arguments[0] != "align":
        raise BadInputError(
            "harness launch runs only align" + (f", not '{arguments[0]}'" if arguments else ""),
            remedy="harness launch --processes 8 align --method METHOD --model MODEL --name NAME",
        )
    if not any(part == "--name" or part.startswith("--name=") for part in arguments):
        raise BadInputError(
            "several processes need --name, so that all write the same run", remedy="align ... --name NAME"
        )
    if processes % machines or rank >= machines:
        raise BadInputError(
            f"--processes {processes} is not a multiple of --machines {machines}"
            if processes % machines
            else f"--rank {rank} is not below --machines {machines}"
        )
    profile = PACKAGE / "configs" / "accelerate" / _PROFILES[sharding]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(profile)]
    command += ["--num_processes", str(processes)]
    if machines > 1:
        host, _, port = (address or "").rpartition(":")
        if not host or not port.isdecimal():
            raise BadInputError("several machines need the address of machine 0", remedy="--address HOST:PORT")
        command += ["--num_machines", str(machines), "--machine_rank", str(rank)]
        command += ["--main_process_ip", host, "--main_process_port", port]
    elif address is not None:
        port = address.rpartition(":")[2]
        if not port.isdecimal():
            raise BadInputError(f"'{address}' is not a valid address", remedy="--address HOST:PORT")
        command += ["--main_process_port", port]
    return [*command, "-m", "harness", *arguments]
