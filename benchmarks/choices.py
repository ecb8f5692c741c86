"""Parsers of multiple-choice answers. A metric's name contains its parser."""

from __future__ import annotations

import re
from collections.abc import Mapping

from harness.judging.replies import spoken

PARSER = 2
"""Version of `read_choice`, stored with the scores, because it determines the `[tolerant]` figures."""
LETTERS = ("A", "B", "C", "D")
_MARKUP = re.compile(r"<\|[^|<>]{0,40}\|>|</?[a-z][^<>]{0,80}>|\\(?:text|textbf|mathbf|mathrm)\b", re.IGNORECASE)
_SURROUNDS = str.maketrans(dict.fromkeys('*_`~"“”„«»{}$#', " ") | {"’": "'", "‘": "'", "[": "(", "]": ")"})
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_ALONE = re.compile(r"(?:\(\s*)?([A-Da-d])\s*(?:\)\s*)?[.:,;!]?")
_FIRST = re.compile(r"\s*(?:\(\s*([A-D])\s*\)|([A-D])\s*(?:[).:,;]|\s[-–—]\s|\n))")
"""A letter that begins the answer and is marked as an option: "(B) red", "B. red", "B: red", "B, because"."""
_ARTICLE = r"(?!(?<=a)[ \t]+(?!(?:because|since|as|and|or|but|for|due|given)\b)[a-z])"
"""After a letter: it is not an article. "A" before a word is one, unless the word can follow no article, as in "A because"."""
_NAMED = re.compile(
    r"\b(?:answer|choice|option|letter)(?:\s+(?:to (?:the|this) question|choice|option))?\s*(?:is|would be|must be|should be|:|=)+\s*"
    rf"(?:option\s+|choice\s+|letter\s+)?(?:\(\s*([A-Da-d])\s*\)|([A-D])(?![\w']){_ARTICLE})"
    r"|\b(?:option|choice)\s+\(?\s*([A-D])(?![\w'])",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"\s*(?:\)\s*)?(?:[,;/&]\s*(?:(?:and|or)\s+)?|(?<=[\s)])(?:and|or)\s+)(?:option\s+|choice\s+)?"
    rf"\(?\s*([A-D])(?![\w']){_ARTICLE}(?!\s+(?:is|are|was|were|has|have|shows?|does|can|cannot|would)\b)",
    re.IGNORECASE,
)
"""A further letter of a list such as "B, C" or "B or (C)"; not the subject of a sentence, as in "B, C is too dark"."""
_IN_BRACKETS = re.compile(r"\(\s*([A-D])\s*\)")
_AT_LINE = re.compile(r"^[ \t]*\(?([A-D])[ \t]*(?:[).:]|\s[-–—]\s|$)", re.MULTILINE)
_NEXT_OPTION = re.compile(r"\sB(?:\.|\s*[-–—]\s)")
_WORD = re.compile(r"\w")
_LISTED = re.compile(r"(?:^|[\s,;])\(?([A-D])[):]\s+", re.MULTILINE)
_CHOICES = re.compile(r"\b(?:options|choices)\s*:\s*", re.IGNORECASE)


def mmstar_official(answer: str) -> str | None:
    """The letter by MMStar's rule, A to D; None if there is none.

    Lower-cased, stripped, newlines as blanks: the first character, or the one after "(", "option " or "the answer is " at the beginning.

    Source: Chen et al., NeurIPS 2024, eval/vlmeval/evaluate/mmstar.py.
    """
    said = answer.lower().strip().replace("\n", " ")
    starts = ("", "(", "option ", "the answer is ")
    found = (said[len(start) :][:1].upper() for start in starts if said.startswith(start))
    return next((letter for letter in found if letter in LETTERS), None)


def options_of(question: str) -> dict[str, str]:
    """Letter -> text of the options that a question lists after "Options:" or "Choices:"; {} if it lists none in order from A."""
    heads = list(_CHOICES.finditer(question))
    if not heads:
        return {}
    listed = question[heads[-1].end() :]
    marks, wanted = [], iter(LETTERS)
    letter = next(wanted)
    for mark in _LISTED.finditer(listed):
        if mark.group(1) == letter:
            marks.append(mark)
            letter = next(wanted, "")
    if len(marks) < 2:
        return {}
    ends = [mark.start() for mark in marks[1:]] + [len(listed)]
    texts = [listed[mark.end() : end].strip().rstrip(",;.").strip() for mark, end in zip(marks, ends, strict=True)]
    return {mark.group(1): text for mark, text in zip(marks, texts, strict=True)}


def read_choice(answer: str, options: Mapping[str, str] | None = None) -> str | None:
    """The letter of the option that an answer chooses, if it is unambiguous for a human reader; else None.

    It recognises a letter that is alone or begins the answer as an option ("B", "(B) red", "B. red"), "The answer is B", `<answer>` and
    `\\boxed{}`, and otherwise the text of exactly one option as whole words ("It is red."). The article "A" is not a choice, and
    several letters ("B, C", or all options repeated) are none.

    Args:
        answer: the model's answer.
        options: letter -> text of the options, if known.
    """
    said = spoken(answer)
    for marked in (_TAGGED.findall(said), _BOXED.findall(said)):
        if marked:
            said = "\n".join(marked)
            break
    text = _MARKUP.sub(" ", said).translate(_SURROUNDS).strip()
    if alone := _ALONE.fullmatch(text):
        return alone.group(1).upper()
    named = {letter for match in _NAMED.finditer(text) for letter in _list_at(text, match)}
    listed = _marked(text)
    # An answer that marks several letters repeats the options; only what it names then is its choice.
    letters = named | listed if len(listed) == 1 else named or listed
    if letters:
        return letters.pop() if len(letters) == 1 else None
    return _by_text(text, options or {})


def _list_at(text: str, match: re.Match[str]) -> set[str]:
    """The letter of a match, with those that follow it in a list: "B or C" has two."""
    letter = match.lastindex
    assert letter is not None
    letters, end = {match.group(letter).upper()}, match.end(letter)
    while following := _NEXT.match(text, end):
        letters.add(following.group(1).upper())
        end = following.end(1)
    return letters


def _marked(text: str) -> set[str]:
    """The letter that begins the answer as an option, and all letters that are marked in the same way; {} if none begins it."""
    first = _FIRST.match(text)
    if first is None:
        return set()
    letters = _list_at(text, first)
    if first.group(1):
        return letters | set(_IN_BRACKETS.findall(text))
    letters |= set(_AT_LINE.findall(text))
    mark = first.group()[-1]
    if mark in "):":
        letters |= set(re.findall(rf"(?<![\w(])([A-D])\s*\{mark}", text))
    # Inside of a line, "lane A. It" is the end of a sentence, so only a list in order counts.
    elif first.group(2) == "A" and _NEXT_OPTION.search(text):
        letters.add("B")
    return letters


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text occurs in the answer. An option inside of another one's text ("red" in "dark red") does not count."""
    low = text.lower()
    occurring = {letter: option.lower() for letter, option in options.items() if _occurs(option.lower(), low)}
    longest = {
        letter: option
        for letter, option in occurring.items()
        if not any(
            option != other and _occurs(option, other) and not _occurs(option, low.replace(other, " "))
            for other in occurring.values()
        )
    }
    return next(iter(longest)) if len(longest) == 1 else None


def _occurs(words: str, text: str) -> bool:
    if not _WORD.search(words):
        return False
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None
