"""Output to the terminal: nothing that is printed can control it, whatever data, answers, names and files contain.

Everything that is printed passes through `Console`, `say` or `printable`. Control characters are removed (of an escape sequence, the
visible rest remains, `[31m`), and so are marks that reverse the direction of writing, which can make a text look like another one.
Errors print them as escapes, because they show what was wrong. Secrets (`harness.core.redaction`) are blanked.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.errors import MarkupError
from rich.segment import Segment
from rich.text import Text

from harness.core.redaction import blank, redact

_COMMANDS = (
    *(set(range(0x20)) - {0x09, 0x0A}),  # C0 (which includes ESC) without tabulator and line feed
    *range(0x7F, 0xA0),  # DEL and C1, which has control sequences, too
    *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # direction of writing
    *(0x2028, 0x2029),  # line ends that only some programs recognise
    *range(0xE0000, 0xE0080),  # tags: invisible letters
)
_LEFT_OUT: dict[int, str | None] = dict.fromkeys(_COMMANDS)
_HALVES: dict[int, str | None] = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")
_TABLE = _LEFT_OUT | _HALVES
_ODD = re.compile("[" + "".join(f"\\U{code:08x}" for code in (*_COMMANDS, *_HALVES)) + "]")
_TAG = re.compile(r"(\\*)(\[([a-z#/@][^[]*?)\])")  # what rich recognises as markup
_PIPE_WIDTH = 10_000  # columns of a pipe or file: lines are as long as what they hold; COLUMNS sets another width
_STYLES = frozenset(("bold", "dim", "green", "red", "yellow"))


def plain(text: str) -> str:
    """A text without control characters; line ends and tabulators are kept, lone surrogates are replaced."""
    text = blank(text)
    if not _ODD.search(text):
        return text
    return "\r\n".join(part.translate(_TABLE) for part in text.split("\r\n"))  # CSV ends its lines so


def printable(text: str, keep: str = "") -> str:
    """A text in which everything is escaped that would move the cursor, colour the terminal, ring its bell or reverse the writing
    direction.

    Messages contain values of data, names and files; these are shown and have no effect on the terminal.

    Args:
        text: any text, even with lone surrogates.
        keep: characters that are not escaped.
    """
    return "".join(one if one.isprintable() or one in keep else repr(one)[1:-1] for one in redact(text))


def one_line(text: str) -> str:
    """Like `printable`, on one line, for a name in a sentence or a cell of a table."""
    return " ".join(plain(text).split())


def json_text(value: Any, **options: Any) -> str:
    """JSON with readable characters, but with escapes for control characters; it parses to the same value."""
    text = json.dumps(value, ensure_ascii=False, default=str, **options)
    return _ODD.sub(lambda odd: json.dumps(odd[0])[1:-1], text)


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text without markup and without control characters.

    Args:
        text: any number of lines.
        err: to standard error, for everything that is not the result.
        nl: end the line.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(plain(text) + ("\n" if nl else ""))
    stream.flush()


class Console(rich.console.Console):
    """A rich console for untrusted text: filtered, and with only the five styles of markup that this program uses.

    Other brackets are printed as they are, so a name like `[/]` or `[link=...]` is not markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False} | options)
        # rich would take the width of the terminal that a pipe's other end may have, or 80, and cut figures for it.
        if self._width is None and not self.is_terminal and not self.is_jupyter:
            self.width = _PIPE_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """Render markup as rich does if it is one of ours; else return the text as it is."""
        text, wanted = blank(text), options.get("markup")
        if wanted is False or (wanted is None and not self._markup):
            return super().render_str(text, **options)
        try:
            return super().render_str(_TAG.sub(_ours, text), **options)
        except MarkupError:  # an end tag without a start tag
            return super().render_str(text, **options | {"markup": False})

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """Filter every piece of text that is shown, including table cells; removed characters have no width for rich."""
        for segment in super().render(*arguments, **options):
            if segment.control or not _ODD.search(segment.text):
                yield segment
            else:
                yield Segment(plain(segment.text), segment.style)


def _ours(tag: re.Match[str]) -> str:
    """A piece of markup unchanged if it is one of ours or already escaped; else escaped."""
    backslashes, whole, name = tag.groups()
    words = set(name.removeprefix("/").split())
    if len(backslashes) % 2 or (words and words <= _STYLES):
        return tag[0]
    return f"{backslashes * 2}\\{whole}"
