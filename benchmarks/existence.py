"""Statements about the object of a question such as "Is there a dog?": "There is no dog" denies it, "There is no cat" does not."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.text.word_forms import plurals, singulars

IDIOMS = re.compile(
    r"doubts?|questions?|problems?|worries|idea|clue|comment|matter|answer|images?|pictures?|photos?|info|information|context|way|"
    r"need|reason|telling|mistake|mistaking|denying|visual"
)
"""Words after a "no" that is not an answer: "no doubt", "no idea", "no image was given"."""
_NEGATIONS = (
    re.compile(r"there(?:'s| is| are| was| were)(?: \w+ly)? no (\w+)"),
    re.compile(r"there (?:isn't|aren't|wasn't|weren't|(?:is|are|was|were) not) (\w+)"),
    re.compile(r"i (?:can |could )?(?:see|find|spot|notice|detect|observe) no (\w+)"),
    re.compile(
        r"i (?:do not|don't|did not|didn't|cannot|can't|can not|could not|couldn't) (?:see|find|spot|notice|detect|observe) "
        r"(?:any|a|an) (\w+)"
    ),
    re.compile(
        r"(?:the|this) (?:image|picture|photo|scene) (?:does not|doesn't) "
        r"(?:show|contain|include|have|feature|depict) (?:any|a|an) (\w+)"
    ),
)
_REFERRING = re.compile(
    r"(?:there(?:'s| is| are| was| were)|i (?:can |could )?see) (none)\b"
    r"|i (?:do not|don't|did not|didn't|cannot|can't|can not|could not|couldn't) (?:see|find|spot|notice|detect|observe) "
    r"(?:(?:one|any|it|them)(?= (?:in|on|at|here|there|anywhere)\b|$))"
)
"""A denial that names no object: "There is none", "I do not see one"."""
_VAGUE = re.compile(r"enough|sufficient|only|just|much|many|always|necessarily|really|quite|clear|clearly|evidence")
_DETERMINERS = frozenset({"a", "an", "any", "the", "some"})
_PLAIN = frozenset({"visible", "actual", "real", "single", "specific", "discernible", "apparent", "obvious", "clear"})
"""Adjectives that do not narrow down what is denied: without a "visible dog" there is no dog, without a "black dog" there may be one."""
_REFERENCES = frozenset(
    {"one", "ones", "none", "such", "thing", "things", "object", "objects", "item", "items", "that", "it", "them"}
)
_SIGNS = re.compile(r"(?:(?:visible|clear|obvious|apparent) )?(?:signs?|traces?|indications?|instances?) of ")
_ENDS = re.compile(
    r"in|on|at|near|next|beside|behind|under|over|above|below|between|among|with|without|of|to|from|by|for|inside|outside|around|across|"
    r"against|along|through|into|onto|off|about|like|visible|present|depicted|shown|seen|anywhere|here|there|nearby|whatsoever|either|too|"
    r"also|as|that|which|who|whose|where|when|while|because|since|but|however|though|and|is|are|was|were|can|could|has|have|does|do|"
    r"appears|seems"
)
"""Words that end the name of an object."""
_IRREGULAR = {
    form: frozenset(pair)
    for pair in (("person", "people"), ("man", "men"), ("woman", "women"), ("child", "children"), ("mouse", "mice"), ("foot", "feet"))
    for form in pair
}  # fmt: skip
_LONGEST = 12
"""Number of words in which an object's name must end."""


def denied_object(statement: str) -> str | None:
    """What a statement denies, from the object's first word on: "dog in it" of "there is no dog in it".

    None if it denies nothing, or no object: "there is no doubt", "there is not enough", "there is not only a dog".
    """
    for pattern in _NEGATIONS:
        if found := pattern.match(statement):
            vague = IDIOMS.fullmatch(found.group(1)) or _VAGUE.fullmatch(found.group(1))
            return None if vague else statement[found.start(1) :]
    return None


@dataclass(frozen=True)
class AskedObject:
    """What a question "Is there a dog in the image?" asks for.

    Attributes:
        verb: is or are.
        thing: the object's name with its determiner, "a dog".
        parts: for each object of "a dog or a cat" its words, and the last of them, of which any form names it.
    """

    verb: str
    thing: str
    parts: tuple[tuple[frozenset[str], frozenset[str]], ...]

    def is_stated(self, clause: str) -> bool:
        """Whether a clause says that it is there, in the question's words: "there is a dog", but not "there is a dog house"."""
        found = re.match(rf"there(?: {self.verb}|'s) {re.escape(self.thing)}(?: (\w+)|$)", clause)
        return found is not None and (found.group(1) is None or _ends(found.group(1)))

    def is_denied(self, denied: str) -> bool | None:
        """Whether a denial is about it: False if it names something else, None if it names nothing, like "there is no such object"."""
        words = _SIGNS.sub("", " ".join(denied.split()[:_LONGEST])).split()
        named = " ".join(_until_end(_object_from(words)))
        objects = [_object(part.split()) for part in re.split(r" ?\b(?:or|nor)\b ?", named)]
        objects = [name for name in objects if name]
        if all(word in _REFERENCES for name in objects for word in name):
            return None
        return all(any(_names(name, words, last) for name in objects) for words, last in self.parts)

    def is_denied_after_no(self, denied: str) -> bool | None:
        """As `is_denied`, of what follows the word "no": "no one" is no person."""
        return self.is_denied(re.sub(r"^one\b", "person", denied))

    def votes(self, clauses: Iterable[str]) -> set[str]:
        """ "yes" if a clause states it, "no" if one denies it; both for a contradiction.

        A denial without a name counts unless another clause denies something else, to which it may refer.
        """
        votes, unnamed, others = set(), False, False
        for clause in clauses:
            if self.is_stated(clause):
                votes.add("yes")
            if _REFERRING.match(clause):
                unnamed = True
            elif clause.startswith("no ") and self.is_denied_after_no(clause[3:]):
                votes.add("no")
            elif denied := denied_object(clause):
                after_no = clause.endswith(f"no {denied}")
                about = self.is_denied_after_no(denied) if after_no else self.is_denied(denied)
                votes |= {"no"} if about else set()
                unnamed, others = unnamed or about is None, others or about is False
        return votes | ({"no"} if unnamed and not others else set())


@functools.lru_cache(maxsize=1 << 12)
def asked_object(question: str) -> AskedObject | None:
    """What a question "Is there ...?" or "Are there ...?" asks for; None for any other question."""
    parsed = re.match(
        r"(is|are) there (.+?)(?: (?:in|on|visible|present)\b.*)?[?. ]*$", question.lower().partition("?")[0].strip()
    )
    if not parsed:
        return None
    thing = parsed.group(2)
    named = re.sub(r"^(?:a total of|a number of|an? pair of|any (?:kind|type|sign)s? of) ", "", thing)
    parts = [_wanted(part.split()) for part in re.split(r" (?:and|or) ", re.sub(r" between .*", "", named))]
    return AskedObject(parsed.group(1), thing, tuple(parts))


def _wanted(words: list[str]) -> tuple[frozenset[str], frozenset[str]]:
    """All words of an object's name, and those of which one alone names it: "bottle" and "wine" of "a bottle of wine"."""
    names = []
    for part in " ".join(words).split(" of "):
        name = _object(_until_end(part.split()))
        names += [*name[-1:], "".join(name)]
        # "person" of "person wearing"; "tall" of "tall building" does no harm, because nobody denies a "tall".
        names += [name[-2]] if len(name) > 1 and _ends(name[-1]) else []
    return frozenset(words), frozenset().union(*(_forms(name) for name in names if name))


def _object(words: list[str]) -> list[str]:
    """The words of a name without what does not matter: determiners, adjectives that narrow nothing down, what follows a determiner."""
    name = _object_from(words)
    return name[: next((at for at, word in enumerate(name) if word in _DETERMINERS), None)]


def _object_from(words: list[str]) -> list[str]:
    return words[next((at for at, word in enumerate(words) if word not in _DETERMINERS | _PLAIN), len(words)) :]


def _until_end(words: list[str]) -> list[str]:
    return words[: next((at for at, word in enumerate(words) if word != "that" and _ENDS.fullmatch(word)), None)]


def _names(name: list[str], words: frozenset[str], last: frozenset[str]) -> bool:
    """Whether a name is that of an object: its last word, or it written as one word, with no other words than those of the question."""
    if _forms("".join(name)) & last:
        return True
    at = next((at for at, word in enumerate(name) if _forms(word) & last and all(map(_ends, name[at + 1 :]))), None)
    return at is not None and words.issuperset(name[:at])


def _ends(word: str) -> bool:
    """Whether a word after a name is no part of it: a preposition, a verb, "sitting"."""
    return _ENDS.fullmatch(word) is not None or word.endswith(("ing", "ed"))


@functools.lru_cache(maxsize=1 << 10)
def _forms(word: str) -> frozenset[str]:
    """A noun with its plural or its singular."""
    return frozenset({word, *plurals(word), *singulars(word)}) | _IRREGULAR.get(word, frozenset())
