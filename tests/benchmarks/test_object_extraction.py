"""Object extraction: NLTK's tokens at speed, WordNet's lemmas, and both extractors, on cases written by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.objects import make_extractor, read_vocabulary
from benchmarks.objects.nltk_parser import NltkExtractor
from benchmarks.objects.spacy_parser import SpacyExtractor, blank_english
from harness.core.errors import BadInputError, HarnessError, UnknownNameError
from harness.text.word_tokens import tokenize
from harness.text.wordnet import noun_lemma


def labels(extractor: str, text: str) -> list[str]:
    return [mention.label for mention in make_extractor(extractor, read_vocabulary()).mentions([text])[0]]


# Words, marks and blanks that the tokenizers treat in their own ways.
PIECES = [
    "a",
    "dog",
    "cat.",
    "Mr.",
    "e.g.",
    "U.S.",
    "3.5",
    "3,",
    "1,000",
    "10:15",
    "it's",
    "don't",
    "cannot",
    "gonna",
    "wanna",
    "gimme",
    "o'clock",
    "dogs'",
    "'tis",
    '"so"',
    "(left)",
    "[x]",
    "end!",
    "what?",
    "wait...",
    "a-b",
    "well-known",
    "--",
    "–",
    "it.in",
    "no;yes",
    "5%",
    "$3",
    "#1",
    "&",
    "/",
    "@home",
    "I.",
    "J.",
    "vs.",
    "etc.",
    "Dr.",
    "st.",
    "café",
    "naïve",
    "\xa0",
    "“quoted”",
    "‘s",
    "it’s",
    "more'n",
    "d'ye",
]


def test_tokens_are_nltks(nltk_ready: None) -> None:
    from nltk import word_tokenize

    rng = random.Random(3)
    for _ in range(3000):
        text = "".join(
            rng.choice(PIECES) + rng.choice((" ", " ", " ", "  ", "\n", "\t", "")) for _ in range(rng.randrange(12))
        )
        found = tokenize(text)
        assert [token.text for token in found] == word_tokenize(text), text
        for token in found:
            if token.start >= 0 and token.text not in ("``", "''"):
                assert text[token.start : token.end] == token.text, text


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("dogs", "dog"),
        ("men", "men"),
        ("women", "woman"),
        ("policemen", "policeman"),
        ("was", "wa"),
        ("glasses", "glass"),
        ("knives", "knife"),
        ("geese", "goose"),
        ("buses", "bus"),
        ("less", "le"),
        ("scissors", "scissors"),
        ("sports", "sport"),
        ("Dogs", "Dogs"),
        ("zzzs", "zzzs"),
    ],
)
def test_lemmas(nltk_ready: None, word: str, lemma: str) -> None:
    assert noun_lemma(word) == lemma


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A hot dog on a plate.", ["hot dog"]),
        ("Two dogs and the women.", ["dog", "person"]),
        ("Some men walk.", []),  # "men" is a noun of its own in WordNet
        ("A baby elephant and an adult elephant beside a baby.", ["elephant", "elephant", "person"]),
        ("Sports balls", ["sports ball"]),  # "ball" alone; the pair became "sport ball"
        ("Home plates by train tracks.", []),
        ("The seat of the toilet.", ["toilet"]),
        ("A toilet seat, a bow tie, a passenger train.", ["toilet", "tie", "train"]),
        ("A dog-cat or cat/dog.", []),
        ("An orange car.", ["orange", "car"]),
        ("TRAFFIC LIGHTS and Wine Glasses", ["traffic light", "wine glass"]),
        ("", []),
    ],
)
def test_official_rules(nltk_ready: None, text: str, expected: list[str]) -> None:
    assert labels("nltk", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Some men walk.", ["person"]),
        ("An orange car and an orange.", ["car", "orange"]),
        ("A hot dog, two wine glasses and traffic lights.", ["hot dog", "wine glass", "traffic light"]),
        ("A dog-cat or cat/dog.", ["dog", "cat", "cat", "dog"]),
        ("A pair of scissors, skis and three buses.", ["scissors", "skis", "bus"]),
        ("Train tracks and a home plate.", []),
        ("The toilet seat.", ["toilet"]),
        ("PEOPLE AND GEESE", ["person", "bird"]),
        ("", []),
        ("   \n", []),
        ("你好，一只狗。", []),
    ],
)
def test_our_rules(text: str, expected: list[str]) -> None:
    assert labels("spacy", text) == expected


def test_an_adjective_is_no_object_where_there_is_a_tagger() -> None:
    import spacy
    from spacy.tokens import Doc

    nlp = spacy.blank("en")

    @spacy.Language.component("test_tags")
    def tags(doc: Doc) -> Doc:
        for token in doc:
            token.lemma_, token.pos_ = (
                token.lower_.removesuffix("s"),
                {"boat": "VERB", "orange": "ADJ"}.get(token.lower_, "NOUN"),
            )
        return doc

    nlp.add_pipe("test_tags")
    found = SpacyExtractor(read_vocabulary(), nlp).mentions(["orange they boat dogs boats"])[0]
    assert [mention.label for mention in found] == ["dog", "boat"]


def test_table_lemmas_are_the_pipelines() -> None:
    """Looking lemmas up once a word gives what the whole pipeline gives for lower-case text."""
    extractor = SpacyExtractor(read_vocabulary())
    for text in ("the geese's knives were left on 3 chairs.", "people's mice; the left mice ran"):
        words = [(token.lemma_, token.lower_) for token in blank_english()(text)]
        for form in (text, text.upper()):
            assert list(zip(*extractor._forms(blank_english().make_doc(form)), strict=True)) == words


@pytest.mark.parametrize("name", ["nltk", "spacy"])
def test_spans_point_at_the_words(name: str, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_ready")
    text = 'He said: "Look, the DOGS!" Then  a\nwine  glass fell on the chair\'s "dining table".'
    found = make_extractor(name, read_vocabulary()).mentions([text])[0]
    spans = {mention.label: text[slice(*mention.span)] for mention in found if mention.span}
    assert spans["dog"] == "DOGS" and spans["chair"] == "chair" and spans["dining table"] == "dining table"


@pytest.mark.parametrize("name", ["nltk", "spacy"])
def test_long_and_odd_texts(name: str, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_ready")
    texts = [
        "dog " * 50_000,
        "x" * 200_000,
        "\x00\ud83d".encode("utf-8", "replace").decode() + " dog",
        "İ dogs",
        "." * 1000,
    ]
    found = make_extractor(name, read_vocabulary()).mentions(texts)
    assert [len(one) for one in found] == [50_000, 0, 1, 1, 0]
    span = found[3][0].span
    assert span is None or texts[3][slice(*span)] == "dogs"


def test_own_vocabulary_has_the_80_classes() -> None:
    vocabulary = read_vocabulary()
    assert len(vocabulary.classes) == 80 and vocabulary.source == "own table"
    assert {"person", "dining table", "hair drier", "tv", "potted plant", "sports ball"} <= set(vocabulary.classes)
    assert all(vocabulary.words[name] == name for name in vocabulary.classes)


def test_own_vocabulary_has_the_official_classes(conformance: Path) -> None:
    official = read_vocabulary(conformance / "data" / "RLAIF-V" / "eval" / "data" / "synonyms_refine.txt")
    assert official.classes == read_vocabulary().classes
    assert official.sha256 != read_vocabulary().sha256


def test_a_vocabulary_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "fruit.txt"
    path.write_text("apple, pippin\n\npear tree, pear\n", encoding="utf-8")
    extractor = make_extractor("spacy", read_vocabulary(path))
    assert [mention.label for mention in extractor.mentions(["A pippin under Pear Trees; a dog"])[0]] == [
        "apple",
        "pear tree",
    ]
    assert extractor.provenance()["vocabulary"] == "fruit.txt"
    path.write_text(", nothing\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="class"):
        read_vocabulary(path)
    with pytest.raises(BadInputError, match="does not exist"):
        read_vocabulary(tmp_path / "absent.txt")


def test_unknown_extractor() -> None:
    with pytest.raises(UnknownNameError, match="spacy"):
        make_extractor("spacey", read_vocabulary())


def test_missing_nltk_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(HarnessError, match="wordnet") as caught:
        NltkExtractor(read_vocabulary())
    assert "NLTK_DATA" in (caught.value.remedy or "")
