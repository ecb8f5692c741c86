"""`harness launch`: an alignment in several processes, by accelerate, with a profile that comes with this tool."""

from __future__ import annotations

import os
import shlex
import sys
from enum import StrEnum
from typing import Annotated

import typer

from harness.cli.options import app
from harness.core.terminal import say


class Sharding(StrEnum):
    """What the processes share out."""

    none = "none"
    zero2 = "zero2"
    fsdp = "fsdp"


_PROFILES = {Sharding.none: "ddp.yaml", Sharding.zero2: "zero2.yaml", Sharding.fsdp: "fsdp.yaml"}


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
)
def launch(
    context: typer.Context,
    processes: Annotated[int, typer.Option("--processes", min=1, help="GPUs of all machines together.")],
    sharding: Annotated[
        Sharding,
        typer.Option(
            "--sharding",
            help="none: the whole model on every GPU (DDP); zero2: gradients and optimizer state shared out (DeepSpeed); "
            "fsdp: the weights, too (FSDP 2).",
        ),
    ] = Sharding.none,
    machines: Annotated[int, typer.Option("--machines", min=1, help="Machines; give the command on each.")] = 1,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Which machine this is, from 0.")] = 0,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Of machine 0, where there are several.")
    ] = None,
    print_command: Annotated[bool, typer.Option("--print", help="Print accelerate's command; do nothing.")] = False,
) -> None:
    """Run `align` on several GPUs: harness launch --processes 8 --sharding fsdp align --name NAME ..."""
    command = launch_command(context.args, processes, sharding, machines, rank, address)
    if print_command:
        say(shlex.join(command))
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)


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
        processes: of all machines together.
        sharding: what the processes share out.
        machines: how many there are.
        rank: which of them this is.
        address: of the first one, HOST:PORT.

    Raises:
        BadInputError: the arguments are those of another command, the run has no name, or the machines do not fit together.
    """
    from harness.core.errors import BadInputError
    from harness.core.paths import PACKAGE

    if not arguments or arguments[0] != "align":
        raise BadInputError(
            "only align runs in several processes" + (f", not '{arguments[0]}'" if arguments else ""),
            remedy="harness launch --processes 8 align --method METHOD --model MODEL --name NAME",
        )
    if not any(part == "--name" or part.startswith("--name=") for part in arguments):
        raise BadInputError("several processes need the run's name", remedy="align ... --name NAME")
    if processes % machines or rank >= machines:
        raise BadInputError(
            f"{processes} processes on {machines} machines, of which this is number {rank}: they do not fit"
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
            raise BadInputError(f"'{address}' is no address", remedy="--address HOST:PORT")
        command += ["--main_process_port", port]
    return [*command, "-m", "harness", *arguments]
