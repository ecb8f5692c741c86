"""Small plugins as an installer leaves them: a module and its distribution's metadata in a folder on the path."""

from __future__ import annotations

import itertools
import textwrap
from dataclasses import dataclass
from pathlib import Path

VERSION = "1.2"
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Plugin:
    """An installed plugin.

    Attributes:
        site: the folder to put on the path.
        module: its module, of a name that no other has in this process.
        distribution: its distribution's name.
        file: the module's file.
    """

    site: Path
    module: str
    distribution: str
    file: Path

    def place(self, mark: str = "# HERE") -> str:
        """File and number of the line that has a mark."""
        [number] = [at for at, line in enumerate(self.file.read_text().splitlines(), 1) if mark in line]
        return f"{self.file}:{number}"


def installed(site: Path, source: str, entries: dict[str, str], requires: tuple[str, ...] = ()) -> Plugin:
    """Write a plugin into a folder.

    Args:
        site: the folder, made if need be.
        source: of its module.
        entries: "aligners.NAME" -> attribute of the module.
        requires: its distribution's requirements, as metadata has them.
    """
    number = next(_NUMBERS)
    module, distribution = f"small_plugin_{number}", f"small-plugin-{number}"
    site.mkdir(parents=True, exist_ok=True)
    file = site / f"{module}.py"
    file.write_text(textwrap.dedent(source), encoding="utf-8")
    about = site / f"small_plugin_{number}-{VERSION}.dist-info"
    about.mkdir()
    extras = sorted({line.partition("extra == '")[2].rstrip("'") for line in requires if "extra ==" in line})
    metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {VERSION}"]
    metadata += [f"Provides-Extra: {one}" for one in extras] + [f"Requires-Dist: {one}" for one in requires]
    (about / "METADATA").write_text("\n".join(metadata) + "\n")
    points = []
    for entry, attribute in entries.items():
        kind, _, name = entry.partition(".")
        points.append(f"[harness.{kind}]\n{name} = {module}:{attribute}\n")
    (about / "entry_points.txt").write_text("\n".join(points))
    (about / "RECORD").write_text(f"{file.name},,\n")
    return Plugin(site, module, distribution, file)
