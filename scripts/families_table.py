"""Writes the table of docs/families.md: `python scripts/families_table.py`."""

from __future__ import annotations

import re
from pathlib import Path

from aligners.training.families import rows

PAGE = Path(__file__).resolve().parents[1] / "docs" / "families.md"
_TABLE = re.compile(r"^\| model_type .*?(?=^$)", flags=re.MULTILINE | re.DOTALL)


def with_table(page: str) -> str:
    """The page with the table of the families as the code declares them."""
    lines = ["| model_type | models | can | about |", "|---|---|---|---|"]
    lines += [f"| `{row['family']}` | {row['models']} | {row['can']} | {row['about']} |" for row in rows()]
    return _TABLE.sub(lambda _: "\n".join(lines) + "\n", page, count=1)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
