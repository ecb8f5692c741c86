"""A plugin in one file is run without being installed, and its mistakes are its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.core import registry
from harness.core.errors import BadInputError
from harness.core.packages import MissingPackageError
from harness.core.plugins import PluginError, attributed, registered, source_files

SOURCE = """
from pathlib import Path
from aligners.base import Aligner, Loss

class Mine(Aligner):
    name, summary, source = "mine", "SUMMARY", "this file"
    here = Path(__file__).name

    def loss(self, policy, reference):
        raise KeyError("choosen")  # HERE
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "my file.py"
    path.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_file_is_registered_like_an_installed_plugin(file: Path) -> None:
    assert registry.adopt("aligners", "dpo") == "dpo"
    assert registry.adopt("aligners", "./my file.py:Mine") == "mine"
    kind = registry.load("aligners", "mine")
    assert (kind.summary, kind.here) == ("SUMMARY", "my file.py") and kind is registry.load("aligners", f"{file}:Mine")
    (entry,) = [one for one in registered("aligners") if one.name == "mine"]
    assert entry.distribution == "my file.py:Mine" and entry.version.startswith("sha256-")
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == "/somewhere"  # processes that are started find it, too
    assert sys.path[-1] in os.environ["PYTHONPATH"]
    with (
        pytest.raises(PluginError, match=r"'mine' \(method\) of my file.py:Mine sha256.* failed: KeyError") as raised,
        attributed(),
    ):
        kind().loss({}, {})
    line = SOURCE.splitlines().index('        raise KeyError("choosen")  # HERE') + 1
    assert raised.value.where == f"{file}:{line}, in Mine.loss"


def test_two_classes_of_one_file_are_two_plugins(file: Path) -> None:
    second = SOURCE.replace("class Mine", "class Other").replace('"mine"', '"other"')
    file.write_text(SOURCE + second)
    assert [registry.adopt("aligners", f"./my file.py:{name}") for name in ("Mine", "Other")] == ["mine", "other"]
    assert [registry.load("aligners", name).__name__ for name in ("mine", "other")] == ["Mine", "Other"]
    assert all(source_files(registry.entries("aligners")[name]) == [(file.name, file)] for name in ("mine", "other"))


def test_a_changed_file_is_read_again_and_takes_the_place_of_the_earlier_one(file: Path) -> None:
    registry.load("aligners", f"{file}:Mine")
    file.write_text(SOURCE.replace("SUMMARY", "changed"))
    assert registry.load("aligners", f"{file}:Mine").summary == "changed"
    assert registry.load("aligners", "mine").summary == "changed"
    assert len([one for one in registered("aligners") if one.name == "mine"]) == 1


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (("class Mine", "class Other"), PluginError, "the file has no class 'Mine'"),
        (('"mine"', "7"), PluginError, "Mine.name is 7, not a text"),
        (("from pathlib import Path", "from pathlib import Road"), PluginError, "cannot be run: ImportError.*:2"),
        (("class Mine(Aligner):", "class Mine(Aligner:"), PluginError, "cannot be run: SyntaxError.*:5"),
        (
            ("from pathlib", "import not_installed_anywhere\nfrom pathlib"),
            MissingPackageError,
            "not-installed-anywhere",
        ),
        (("Mine(Aligner)", "Mine"), PluginError, "not a subclass of aligners.base.Aligner"),
        (('"mine"', '"dpo"'), PluginError, "two packages register the method 'dpo'"),
    ],
)
def test_a_mistake_is_named_with_its_place(
    file: Path, change: tuple[str, str], error: type[Exception], reason: str
) -> None:
    file.write_text(SOURCE.replace(*change))
    with pytest.raises(error, match=reason):
        registry.load("aligners", f"{file}:Mine")


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(BadInputError, match="the plugin does not exist"):
        registry.load("aligners", "./other.py:Mine")
    with pytest.raises(BadInputError, match="the plugin is a folder"):
        (file.parent / "folder.py").mkdir()
        registry.names("benchmarks", "pope,folder.py:Mine")


def test_files_of_the_environment_are_registered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Path(__file__).parents[2] / "plugin" / "harness_ipo.py"
    monkeypatch.setenv("HARNESS_PLUGINS", f"./my file.py:Mine, {plugin}:ExactMatch")
    assert "mine" in registry.entries("aligners") and registry.names("benchmarks", "exact,pope") == ["exact", "pope"]
    assert registry.load("benchmarks", "exact").title == "Exact match"
    monkeypatch.setenv("HARNESS_PLUGINS", "mine")
    with pytest.raises(BadInputError, match=r"HARNESS_PLUGINS is a list of FILE.py:CLASS, and 'mine' is none"):
        registry.entries("aligners")
    file.write_text("class Mine: name = 'mine'")
    monkeypatch.setenv("HARNESS_PLUGINS", f"{file}:Mine")
    with pytest.raises(PluginError, match="no subclass of a method, a benchmark"):
        registry.entries("aligners")
