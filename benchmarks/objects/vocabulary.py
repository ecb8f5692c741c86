"""Object vocabularies: classes and the words for them. They are data files: ours, the official one, or the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import BadInputError, shown
from harness.core.files import sha256_bytes
from harness.core.reading import decode, read_bytes

OWN = Path(__file__).with_name("coco.txt")
_LONGEST = 100
"""Maximum length of a word or phrase; tokenizers take minutes for much longer ones."""


@dataclass(frozen=True)
class Vocabulary:
    """Word or phrase -> class, in the order of the file, and the file's name and hash. A word of two classes belongs to the later one,
    as in the official script.
    """

    words: dict[str, str]
    source: str
    sha256: str

    @property
    def classes(self) -> list[str]:
        """The classes, in the order of the file."""
        return list(dict.fromkeys(self.words.values()))


def read_vocabulary(path: Path | None = None) -> Vocabulary:
    """Read a vocabulary: one class per line, "class, synonym, synonym"; None: our own COCO-80 table.

    Raises:
        BadInputError: the file does not exist or is not text, a line has no class, a word is invalid, or there are no words.
    """
    file = OWN if path is None else Path(path)
    data = read_bytes(file, "vocabulary")
    lines = decode(data, "vocabulary", str(file)).splitlines()
    words: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entries = [entry.strip() for entry in line.split(",")]
        if not entries[0]:
            raise BadInputError("the line does not start with a class", where=f"{file}:{number}")
        if long := next((entry for entry in entries if len(entry) > _LONGEST), None):
            raise BadInputError(f"a word has {len(long)} characters: {shown(long)}", where=f"{file}:{number}")
        words |= dict.fromkeys((entry for entry in entries if entry), entries[0])
    if not words:
        raise BadInputError("the vocabulary has no words", where=str(file))
    return Vocabulary(words, "own table" if path is None else file.name, sha256_bytes(data))
