"""The statistics of pocket-rich's pictures beside COCO's, and 18 of them: `python scripts/rich_statistics.py docs/pocket-rich.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from harness.worlds.pocket.draw import draw
from harness.worlds.pocket.rich import LARGE, SMALL, make_rich_scenes
from harness.worlds.pocket.scenes import SIDE, Scene, Split, make_scenes

COUNT, COLUMNS, ROWS, ZOOM = 3000, 6, 3, 3
COCO = ("7.7", "3.5", "41 %", "34 %", "24 %")


def statistics(scenes: list[Scene]) -> list[str]:
    """Objects and classes in a picture, and the shares of small, medium and large objects."""
    sides = np.array([thing.size / SIDE for scene in scenes for thing in scene.drawn])
    shares = (sides < SMALL).mean(), ((sides >= SMALL) & (sides < LARGE)).mean(), (sides >= LARGE).mean()
    return [
        f"{np.mean([len(scene.drawn) for scene in scenes]):.1f}",
        f"{np.mean([len(scene.names) for scene in scenes]):.1f}",
        *(f"{share:.0%}".replace("%", " %") for share in shares),
    ]


def main(target: Path) -> None:
    """Write the table to standard output and the contact sheet to `target`."""
    splits: tuple[Split, ...] = ("train", "test")
    rows = {"COCO": COCO}
    rows |= {f"pocket-rich, {split}": tuple(statistics(make_rich_scenes(0, split, COUNT))) for split in splits}
    rows |= {f"pocket, {split}": tuple(statistics(make_scenes(0, split, COUNT))) for split in splits}
    lines = ["| | objects | classes | small | medium | large |", "|---|---|---|---|---|---|"]
    sys.stdout.write("\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())]) + "\n")
    side = SIDE * ZOOM
    sheet = Image.new("RGB", (COLUMNS * side, ROWS * side))
    for place, scene in enumerate(make_rich_scenes(0, "train", COLUMNS * ROWS)):
        picture = draw(scene).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(picture, (place % COLUMNS * side, place // COLUMNS * side))
    sheet.quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
