"""Our own extraction at hyphens, plurals, possessives, capitals and glued words; the official parser stays as it is."""

from __future__ import annotations

import pytest

from benchmarks.nouns import SpacyNouns
from benchmarks.objects import make_extractor, read_vocabulary
from harness.text.word_forms import plurals, singulars


def labels(text: str) -> list[str]:
    [mentions] = make_extractor("spacy", read_vocabulary()).mentions([text])
    for mention in mentions:
        assert mention.span and text[slice(*mention.span)].strip() == text[slice(*mention.span)] != ""
    return [mention.label for mention in mentions]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A teddy-bear sits on the bed.", ["teddy bear", "bed"]),
        ("Hot-dogs on a plate.", ["hot dog"]),
        ("A stop-sign, two STOP-SIGNS.", ["stop sign", "stop sign"]),
        ("A stop\u2011sign and a stop\u2010sign and a stop–sign.", ["stop sign"] * 3),
        ("A fire-hydrant by the traffic-lights.", ["fire hydrant", "traffic light"]),
        ("Wine-glasses and a wine glass.", ["wine glass", "wine glass"]),
        ("A teddy_bear, a traffic_light", ["teddy bear", "traffic light"]),
        (
            "A snow-board, an air-plane, a sea-gull, tea-cups, cup-cakes.",
            ["snowboard", "airplane", "bird", "cup", "cake"],
        ),
        ("A pick-up truck.", ["truck"]),
        ("A cell-phone-like thing.", []),
        ("A teddy-bear-shaped balloon.", []),
        ("Home-plate by the train-tracks.", []),
        ("A coffee-table.", ["dining table"]),
        ("A dining-room-table.", ["dining table"]),
        ("A bear-shaped cookie.", []),
        ("A tie-dye shirt, a tie-dyed shirt.", []),
        ("A bowl-shaped sink.", ["sink"]),
        ("A remote-controlled toy.", []),
        ("A horse-drawn carriage, a dog-walking man.", ["person"]),
        ("A cat-like dog.", ["dog"]),
        ("A bus-stop, an apple-tree, a bird-house.", []),
        ("A man-made lake, a child-friendly place.", []),
        ("Wine glass-shaped lamps.", []),
        ("A two-person tent and a 3-car garage.", []),
        ("A twin-bed.", ["bed"]),
        ("A mini-van, an e-bike.", ["car", "bicycle"]),
        ("A dog-cat or cat/dog.", ["dog", "cat", "cat", "dog"]),
        ("A dog - a cat; a dog--a cat.", ["dog", "cat", "dog", "cat"]),
        ("A ten-year-old boy in a well-dressed crowd.", ["person"]),
        ("An orange-colored wall, a red-orange sky.", []),
        ("- dog\n- cat\n-dog", ["dog", "cat", "dog"]),
        ("Three TVs, one TV, a T.V., TV's.", ["tv"] * 4),
        (
            "SUVs, calves, frisbees, burgers, smartphones, loveseats.",
            ["car", "cow", "frisbee", "sandwich", "cell phone", "couch"],
        ),
        ("Women's bags, the men’s ties, the dogs' bowl.", ["person", "person", "tie", "dog", "bowl"]),
        ("TEDDY BEARS AND HOT DOGS", ["teddy bear", "hot dog"]),
        (
            "Buses, benches, knives, geese, mice, oxen, babies.",
            ["bus", "bench", "knife", "bird", "mouse", "cow", "person"],
        ),
        ("A baby elephant and an adult giraffe.", ["elephant", "giraffe"]),
        ("dog;cat|dog&cat+dog", ["dog", "cat"] * 2 + ["dog"]),
        ("**dog**, `cat`, _dog_, “cats”, #dog", ["dog", "cat", "dog", "cat", "dog"]),
        ("\u200bdog\u200b and an ele\u00adphant", ["dog", "elephant"]),
        ("-", []),
        ("dog-", ["dog"]),
        ("a-b-c-d-e-f", []),
    ],
)
def test_what_is_named(text: str, expected: list[str]) -> None:
    assert labels(text) == expected


def test_every_word_of_the_vocabulary_in_the_plural_and_in_capitals() -> None:
    vocabulary = read_vocabulary()
    extractor = make_extractor("spacy", vocabulary)
    for word, label in vocabulary.words.items():
        hyphenated = {word.replace(" ", "-")} if " " in word else set()
        forms = plurals(word) | {word} | hyphenated
        for form in {*forms, *map(str.upper, forms), *map(str.title, forms)}:
            texts = [f"Here stand {form}.", f"Here stand the {form}'s."]
            for text, mentions in zip(texts, extractor.mentions(texts), strict=True):
                assert [mention.label for mention in mentions] == [label], text


REGULAR = {
    "dog": "dogs",
    "bus": "buses",
    "couch": "couches",
    "puppy": "puppies",
    "boy": "boys",
    "knife": "knives",
    "calf": "calves",
    "potato": "potatoes",
    "tv": "tvs",
}


@pytest.mark.parametrize(("word", "plural"), REGULAR.items())
def test_plurals(word: str, plural: str) -> None:
    assert plural in plurals(word) and word in singulars(plural)
    assert not singulars("bed")


def test_ambers_own_nouns_take_hyphenated_words_as_the_official_tokens_are() -> None:
    """NLTK keeps a hyphenated word whole, so its parts are no nouns of it; ours counts a part as little."""
    vocabulary = {"bear", "teddy", "dog", "frisbee", "t-shirt", "snowboard", "smartphone"}

    def nouns(text: str) -> list[str]:
        return [noun.word for noun in SpacyNouns().nouns([text], vocabulary)[0] if noun.word in vocabulary]

    assert nouns("A bear-shaped cookie, a teddy-bear, a dog.") == ["dog"]
    assert nouns("A T-shirt, a snow-board, two frisbees and smartphones.") == [
        "t-shirt",
        "snowboard",
        "frisbee",
        "smartphone",
    ]
    assert nouns("a dog - a bear") == ["dog", "bear"]
