"""What goes to a terminal: nothing that is printed can command it, whatever data, answers, names and files hold.

Everything that is printed passes through `Console`, `say` or `printable`. Control characters are left out (an escape sequence is then
the visible rest of it, `[31m`), and so are the marks that turn the direction of writing round, by which a text can look like another
one. Errors, whose purpose is to show what was wrong, write them as escapes. Secrets (`harness.core.redaction`) are blanked.
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
    *(set(range(0x20)) - {0x09, 0x0A}),  # C0 without tabulator and line feed; ESC is one of them
    *range(0x7F, 0xA0),  # DEL and C1, which begins sequences of its own
    *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # direction of writing
    *(0x2028, 0x2029),  # line ends that only some programs take for such
    *range(0xE0000, 0xE0080),  # tags: letters that nobody sees
)
_LEFT_OUT: dict[int, str | None] = dict.fromkeys(_COMMANDS)
_HALVES: dict[int, str | None] = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")
_TABLE = _LEFT_OUT | _HALVES
_ODD = re.compile("[" + "".join(f"\\U{code:08x}" for code in (*_COMMANDS, *_HALVES)) + "]")
_TAG = re.compile(r"(\\*)(\[([a-z#/@][^[]*?)\])")  # what rich takes for one
_PIPE_WIDTH = 10_000  # columns of a pipe or file: lines are as long as what they hold; COLUMNS sets another width
_STYLES = frozenset(("bold", "dim", "green", "red", "yellow"))


def plain(text: str) -> str:
    """A text without anything that a terminal would obey; ends of lines and tabulators stay, halves of characters are replaced."""
    text = blank(text)
    if not _ODD.search(text):
        return text
    return "\r\n".join(part.translate(_TABLE) for part in text.split("\r\n"))  # CSV ends its lines so


def printable(text: str, keep: str = "") -> str:
    """A text with everything escaped that would move a cursor, colour a terminal, ring its bell or turn its direction of writing.

    Values of data, names and files stand in messages; what they hold is shown and does nothing.

    Args:
        text: any text, halves of characters too.
        keep: characters that are left as they are.
    """
    return "".join(one if one.isprintable() or one in keep else repr(one)[1:-1] for one in redact(text))


def one_line(text: str) -> str:
    """The same on one line, for a name in a sentence or a cell of a table."""
    return " ".join(plain(text).split())


def json_text(value: Any, **options: Any) -> str:
    """JSON in readable characters, with escapes for those that a terminal would obey: it says the same when it is read."""
    text = json.dumps(value, ensure_ascii=False, default=str, **options)
    return _ODD.sub(lambda odd: json.dumps(odd[0])[1:-1], text)


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text as it is, but for what a terminal would obey.

    Args:
        text: any number of lines.
        err: to standard error, where everything goes that is not the result itself.
        nl: end the line.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(plain(text) + ("\n" if nl else ""))
    stream.flush()


class Console(rich.console.Console):
    """A rich console for text that others wrote: filtered, and with no more markup than the five styles that this program uses.

    Brackets that mean anything else stand as they are, so that a name like `[/]` or `[link=...]` is a name.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False} | options)
        # rich would take the width of the terminal that a pipe's other end may have, or 80, and cut figures for it.
        if self._width is None and not self.is_terminal and not self.is_jupyter:
            self.width = _PIPE_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """As rich does it, where the markup is one of ours; else the text as it is."""
        text, wanted = blank(text), options.get("markup")
        if wanted is False or (wanted is None and not self._markup):
            return super().render_str(text, **options)
        try:
            return super().render_str(_TAG.sub(_ours, text), **options)
        except MarkupError:  # a style that ends and did not begin
            return super().render_str(text, **options | {"markup": False})

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        """Every piece of text that is shown comes by here, cells of tables included; rich counts what is left out as no width."""
        for segment in super().render(*arguments, **options):
            if segment.control or not _ODD.search(segment.text):
                yield segment
            else:
                yield Segment(plain(segment.text), segment.style)


def _ours(tag: re.Match[str]) -> str:
    """A piece of markup as it is, where it is one of ours or escaped; else escaped."""
    backslashes, whole, name = tag.groups()
    words = set(name.removeprefix("/").split())
    if len(backslashes) % 2 or (words and words <= _STYLES):
        return tag[0]
    return f"{backslashes * 2}\\{whole}"
