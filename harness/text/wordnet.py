"""WordNet's noun lemmas, read from the two necessary files.

The official scorers name NLTK 3.8.1; later versions lemmatise a little differently ("less") and need files that some WordNet packages
lack. So the rule is implemented here, and figures do not depend on the version of NLTK.
"""

from __future__ import annotations

import functools
from typing import IO

# Morphy's endings of nouns, in its order.
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


@functools.cache
def _nouns() -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
    """The nouns of WordNet, and its irregular forms with their lemmas."""
    with _open("index.noun") as stream:
        # The licence at the head of the file is indented.
        lines = stream.read().decode("utf-8").splitlines()
        nouns = frozenset(line.split(" ", 1)[0] for line in lines if not line.startswith(" "))
    with _open("noun.exc") as stream:
        rows = [line.split() for line in stream.read().decode("utf-8").splitlines() if line.strip()]
    return nouns, {row[0]: tuple(row[1:]) for row in rows}


def _open(name: str) -> IO[bytes]:
    import nltk

    try:
        place = nltk.data.find(f"corpora/wordnet/{name}")
    except LookupError:
        place = nltk.data.find(f"corpora/wordnet.zip/wordnet/{name}")
    stream: IO[bytes] = place.open()
    return stream


@functools.lru_cache(maxsize=1 << 18)
def noun_lemma(word: str) -> str:
    """The shortest of WordNet's noun lemmas of a word; the word itself if there is none.

    Irregular forms are looked up; otherwise endings are removed repeatedly until a noun is found. The word itself is a candidate if it
    is a noun, so "men" stays "men".

    Source: Morphy as in NLTK 3.8.1, `WordNetLemmatizer.lemmatize`.
    """
    nouns, irregular = _nouns()
    if word in irregular:
        lemmas = [form for form in (word, *irregular[word]) if form in nouns]
        return min(lemmas, key=len) if lemmas else word
    forms = _shorter([word])
    lemmas = [form for form in (word, *forms) if form in nouns]
    while not lemmas and forms:
        forms = _shorter(forms)
        lemmas = [form for form in forms if form in nouns]
    return min(lemmas, key=len) if lemmas else word


def _shorter(forms: list[str]) -> list[str]:
    return [form[: len(form) - len(old)] + new for form in forms for old, new in _ENDINGS if form.endswith(old)]
