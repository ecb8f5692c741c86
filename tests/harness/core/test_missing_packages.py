"""What is not installed is said with the command that installs it: a plugin's package, an optional one of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import run_here
from tests.harness.core.mistaken_plugins import (
    ALIGN,
    HEAD,
    METHOD,
    check,
    said_by,
)
from tests.harness.core.mistaken_plugins import folder as folder
from tests.plugins import installed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requires", "command"),
    [
        ((), "pip install nowhere-to-be-found"),
        (("nowhere_to_be_found>=2",), "pip install 'nowhere_to_be_found>=2'"),
        (("nowhere-to-be-found; extra == 'more'",), "[more]'"),
    ],
)
@pytest.mark.parametrize("at", ["# head", "        # before"])
def test_a_package_that_a_plugin_lacks(
    at: str,
    requires: tuple[str, ...],
    command: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    indent = at[: len(at) - len(at.lstrip())]
    source = ("# head\n" + HEAD + METHOD).replace(at, f"{indent}import nowhere_to_be_found.part  # HERE", 1)
    plugin = installed(tmp_path / "site", source, {"aligners.mine": "Mine"}, requires)
    said = said_by(plugin, ALIGN, folder, monkeypatch)
    check(said, plugin, "is not installed", command)


@pytest.mark.parametrize(
    ("package", "setting", "command"),
    [
        ("bitsandbytes", "train.tuning=qlora", "pip install 'vlm-align-harness[qlora]'"),
        ("wandb", "train.report_to=[wandb]", "pip install wandb"),
        ("trackio", "train.report_to=[trackio]", "pip install trackio"),
    ],
)
def test_a_package_that_we_lack(
    package: str, setting: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(package, monkeypatch)
    pairs = ["align", "--method", "dpo", "--model", "./base", "--data", "rlaif-v.parquet", "--name", "lacks"]
    code, _, said = run_here([*pairs, "--set", setting], folder)
    assert code == 2 and f"'{package}' is not installed" in said and command in said, said
    assert not (folder / "results" / "lacks").exists()


@pytest.mark.parametrize(
    ("package", "arguments", "command"),
    [
        (
            "ray",
            ["data", "corrupt", "rlaif-v.parquet", "-o", "made", "--ray", "2"],
            "pip install 'vlm-align-harness[ray]'",
        ),
        ("matplotlib", ["plot", "-o", "charts"], "pip install 'vlm-align-harness[plot]'"),
    ],
)
def test_an_import_that_fails_says_what_to_install(
    package: str, arguments: list[str], command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.scored_runs import make_run

    without(package, monkeypatch)
    for name in ("base", "other"):
        make_run(folder / "results", name, ["a dog", "a cat", "a dog and a cat", "a bird"] * 10)
    code, _, said = run_here(arguments, folder)
    assert code == 2 and command in said and "defect" not in said, said


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were not installed: nothing finds it any more, and who imports it is told so."""
    import importlib.machinery
    import sys

    class Nowhere(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nowhere, *sys.meta_path])
