"""Parsers of yes/no answers. A metric's name contains its parser."""

from __future__ import annotations

import functools
import re

from benchmarks.existence import IDIOMS, AskedObject, asked_object, denied_object
from harness.core.typed import Fields
from harness.judging.replies import spoken

PARSER = 3
"""Version of `tolerant`, stored with the scores, because it determines the `[strict]` and `[tolerant]` figures."""
_CACHED = 200
"""Results for answers of at most this length are cached, because a suite has mostly the same few answers."""
_MARKUP = re.compile(r"<\|[^|<>]{0,40}\|>|</?[a-z][^<>]{0,80}>|\\(?:boxed|text|textbf|mathbf|mathrm)\b", re.IGNORECASE)
_SURROUNDS = str.maketrans(dict.fromkeys('*_`~"“”„«»{}[]()$#>', " ") | {"’": "'", "‘": "'"})
_QUOTED = re.compile(r"(?<![a-z])'|'(?![a-z])")
_OPTION = re.compile(r"^\W*[a-dA-D][).]\s")
_WORDS = re.compile(r"[\w'/]*\w[\w'/]*")
_CLAUSE = re.compile(r"[.,;:!?\n\r|=]+|\s[-–—]+\s|—")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_AFFIRMED = frozenset({"yes", "yeah", "yep", "yup"})
_DENIED = frozenset({"no", "nope", "nah"})
_AFTER_NO = re.compile(
    r"there|it|i|the|this|that|these|those|they|s?he|we|you|not|sorry|wait|actually|none|as|because|since|to|for"
)
"""Words before which "no" at the beginning of a clause is an answer and not a determiner, as in "no other objects"."""
_NO_NOUN = re.compile(r"only|just|its|it's|can't|cannot|couldn't|nothing|but|in|on|at|a|an")
"""Words after a "no" that is an answer without a comma: "No only a cat"."""
_LEAD_INS = re.compile(
    r"sorry|well|so|okay|ok|hmm|sure|certainly|therefore|thus|hence|then|looking|based|in|from|after|judging|according|given|upon|as|"
    r"unfortunately"
)
"""First words of clauses that only introduce the answer: "In the image, ...", "Sorry, ..."."""
_CONNECTIVES = frozenset(
    {"but", "and", "however", "though", "although", "while", "also", "instead", "so", "then", "because", "since"}
)
_LABELS = ("answer", "a", "assistant", "response", "conclusion")
_ANSWER_IS = re.compile(
    r"\banswer(?: to (?:the|this|that|your) question)?(?: is| would be| must be| should be|'s)\s+(?:a )?(\w+)(?: (\w+))?"
    r"|\bi(?: would|'d)? (?:say|think|believe|answer)(?: that)?\s+(yes|no)\b(?: (\w+))?"
)


def pope_official(answer: str) -> str:
    """POPE's rule: "no" if a blank-separated token of the text up to the first full stop, without commas, is No, no or not. Everything
    else is "yes", including the empty answer.
    Source: Li et al., EMNLP 2023, evaluate.py.
    """
    first = answer.split(".", 1)[0].replace(",", "")
    return "no" if {"No", "no", "not"} & set(first.split(" ")) else "yes"


def tolerant(answer: str, question: str = "") -> str | None:
    """ "yes" or "no" if the answer is unambiguous for a human reader; else None, as for answers that contradict themselves.

    It recognises, in any case and within quotation marks and markup: an answer that begins with the word; the word alone between
    punctuation ("Based on the image, no."); "Answer: No", "the answer is no"; `<answer>` and `\\boxed{}`, which then are the whole
    answer;
    and a first statement that denies, such as "There is no dog". A model's reasoning before its answer is ignored.

    Args:
        answer: text of the answer.
        question: text of the question. "There is a dog" is a yes to "Is there a dog?" and "There is no dog" a no, but both say nothing
            about something else.
    """
    return _known(answer, question) if len(answer) <= _CACHED else _read(answer, question)


def _read(answer: str, question: str) -> str | None:
    said = spoken(answer)
    for marked in (_TAGGED.findall(said), _BOXED.findall(said)):
        if marked:
            said = "\n".join(marked)
            break
    text = _OPTION.sub("", _MARKUP.sub(" ", said)).lower().translate(_SURROUNDS)
    clauses = [words for part in _CLAUSE.split(_QUOTED.sub(" ", text)) if (words := _WORDS.findall(part))]
    before = [_LABELS, *clauses]  # a word after "Answer:" begins the answer, like the very first word
    asked = asked_object(question)
    votes = {
        vote for words, last in zip(clauses, before, strict=False) if (vote := _vote(words, last[-1] in _LABELS, asked))
    }
    votes |= {vote for words in clauses if (vote := _named(" ".join(words)))}
    if asked is not None:
        votes |= asked.votes(map(_stated, clauses))
    elif denied_object(_statement(clauses)):
        votes.add("no")
    return votes.pop() if len(votes) == 1 and "both" not in votes else None


_known = functools.lru_cache(maxsize=1 << 13)(_read)


def _vote(words: list[str], first: bool, asked: AskedObject | None) -> str | None:
    """The vote of a clause by its first word: "yes", "no", "both", or None. "No cat is visible" is none on a dog."""
    word, following = words[0], words[1] if len(words) > 1 else ""
    if word in _AFFIRMED:
        return "both" if following.strip("/") in ("or", "and", "no") or following.startswith("/") else "yes"
    if word in ("yes/no", "no/yes"):
        return "both"
    if word not in _DENIED:
        return None
    if following in ("or", "and") and words[2:3] == ["yes"]:
        return "both"
    if IDIOMS.fullmatch(following):
        return None
    if not following or _AFTER_NO.fullmatch(following):
        return "no"
    if asked is None or _NO_NOUN.fullmatch(following):
        return "no" if first else None
    return "no" if first and asked.is_denied_after_no(" ".join(words[1:])) is not False else None


def _named(clause: str) -> str | None:
    """ "The answer is no" and the like, anywhere in a clause."""
    for found in _ANSWER_IS.finditer(clause):
        word, following = found.group(1) or found.group(3), found.group(2) or found.group(4) or ""
        if word in _AFFIRMED | _DENIED and following in ("or", "and"):
            return "both"
        if word in _AFFIRMED:
            return "yes"
        if word in _DENIED and (not following or _AFTER_NO.fullmatch(following)):
            return "no"
    return None


def _statement(clauses: list[list[str]]) -> str:
    """The first clause with a statement, after "Yes", "Sorry" or "In the image"."""
    for words in clauses:
        if words[0] in _AFFIRMED | _DENIED and len(words) > 1 and _AFTER_NO.fullmatch(words[1]):
            return " ".join(words[1:])
        if not _LEAD_INS.fullmatch(words[0]) and not (len(words) == 1 and words[0] in _AFFIRMED | _DENIED):
            return " ".join(words)
        if len(words) > 2 and "there" in words[1:]:  # "In the image there is no dog"
            return " ".join(words[words.index("there", 1) :])
    return ""


def _stated(words: list[str]) -> str:
    """A clause without what only introduces its statement: "but", "in the background"; "whether there is" states nothing."""
    if words[0] in _AFFIRMED | _DENIED and len(words) > 1 and _AFTER_NO.fullmatch(words[1]):
        words = words[1:]
    while len(words) > 1 and words[0] in _CONNECTIVES:
        words = words[1:]
    if _LEAD_INS.fullmatch(words[0]) and "there" in words[1:]:
        place = words.index("there", 1)
        words = words if words[place - 1] in ("if", "whether", "unless") else words[place:]
    return " ".join(words)


def yes_or_no(fields: Fields, key: str) -> str:
    """The label in a file: yes or no in any case, with surrounding blanks allowed.

    Raises:
        BadInputError: it is neither, for example null, a number or another word.
    """
    value = fields.value.get(key)
    label = value.strip().lower() if isinstance(value, str) else ""
    if label not in ("yes", "no"):
        fields.refuse(key, "one of yes, no")
    return label
