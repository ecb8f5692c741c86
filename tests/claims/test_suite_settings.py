"""Each setting of a suite changes what is asked, what is taken for an object, or how it is judged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.amber import AMBER, AmberSettings
from benchmarks.chair import CHAIR
from benchmarks.halbench import ObjectHalBench
from benchmarks.mmhal import MMHalBench, MMHalSettings
from benchmarks.pope import POPE, POPEAOKVQA, POPEGQA
from harness.core.config import parse
from harness.core.errors import BadInputError
from tests.benchmarks.scoring import jsonl
from tests.benchmarks.test_llm_extraction import pipeline as pipeline
from tests.benchmarks.test_mmhal import mmhal_folder

BOTH = pytest.mark.parametrize("kind", [ObjectHalBench, CHAIR])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    truth = [{"image_id": 1, "instances": ["dog"], "captions": []}]
    said = [{"image_id": 1, "text": "A dog near a puppy, and a teddy bear."}]
    return {"annotations": jsonl(tmp_path / "gt.jsonl", truth), "responses": jsonl(tmp_path / "r.jsonl", said)}


def suite(kind: type[Any], **settings: Any) -> Any:
    return kind(parse(kind.Settings, settings, "suite"))


@BOTH
@pytest.mark.claims(
    "halbench.synonyms", "chair.synonyms", "halbench.matched_words", "chair.matched_words", "halbench.extractor",
    "chair.extractor",
)  # fmt: skip
def test_what_is_taken_for_an_object(kind: type[Any], files: dict[str, Path], tmp_path: Path) -> None:
    def counts(**settings: Any) -> dict[str, float]:
        benchmark = suite(kind, **settings)
        [score] = benchmark.score(*benchmark.read_offline(files))
        return dict(score.counts)

    assert counts()["mentions"] == 3
    (tmp_path / "own.txt").write_text("dog\ncat\n")
    assert counts(synonyms=tmp_path / "own.txt")["mentions"] == 1
    assert counts(matched_words=2)["matched_mentions"] == 1 and "matched_mentions" not in counts()
    with pytest.raises(BadInputError, match="no_such_pipeline"):
        counts(extractor="spacy:no_such_pipeline")


@BOTH
@pytest.mark.claims("halbench.template", "chair.template", "halbench.pipeline", "chair.pipeline")
def test_how_a_judge_is_asked_for_objects(
    kind: type[Any], files: dict[str, Path], tmp_path: Path, pipeline: Path
) -> None:
    (tmp_path / "own.txt").write_text("Name what is in: {description}")
    custom = suite(kind, extractor="llm", template=tmp_path / "own.txt", pipeline=str(pipeline))
    [request] = custom.judge_requests(*custom.read_offline(files))
    assert request.prompt == "Name what is in: A dog near a puppy, and a teddy bear."
    from harness.judging.base import JudgeReply
    from tests.benchmarks.test_llm_extraction import Lister

    class Hot(Lister):
        def judge(self, requests: Any) -> Any:
            for one in requests:
                yield JudgeReply(one.item.id, '["wooden dog"]')

    [score] = custom.score(*custom.read_offline(files), Hot())
    assert [piece.label for piece in score.evidence] == ["dog"]
    wrong = suite(kind, extractor="llm", pipeline="no_such_pipeline")
    with pytest.raises(BadInputError, match="no_such_pipeline"):
        wrong.score(*wrong.read_offline(files), Hot())
    for name, value in (("template", tmp_path / "own.txt"), ("pipeline", "en_core_web_md")):
        with pytest.raises(BadInputError, match=f"{name} is for extractor=llm"):
            suite(kind, **{name: value})


@pytest.mark.claims("chair.prompt")
def test_what_is_asked_about_an_image(tmp_path: Path) -> None:
    from tests.benchmarks.test_halbench import coco_folder

    coco_folder(tmp_path / "chair" / "annotations")
    (tmp_path / "chair" / "images").mkdir()
    (tmp_path / "chair" / "images" / "COCO_val2014_000000000042.jpg").write_bytes(b"jpg")
    [item] = suite(CHAIR, prompt="Say what you see.").items(tmp_path / "chair")
    assert item.prompt == "Say what you see."


@pytest.mark.claims("amber.nouns", "amber.similarity")
def test_words_of_amber(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"pairs": [["plant", "tree"]]}')
    table = AmberSettings(nouns="spacy", similarity=f"table:{tmp_path / 't.json'}")
    first = AMBER(table).variant
    assert re.fullmatch("spacy\\+table:t-[0-9a-f]{8}", first)
    (tmp_path / "t.json").write_text('{"pairs": [["plant", "bush"]]}')
    assert AMBER(table).variant != first, "other pairs make another number"
    assert AMBER(AmberSettings(nouns="spacy", similarity="exact")).variant == "spacy+exact"
    with pytest.raises(BadInputError, match="nowns"):
        AMBER(AmberSettings(nouns="nowns", similarity="exact")).variant  # noqa: B018


@pytest.mark.claims("amber.suffix", "pope.suffix", "pope-aokvqa.suffix", "pope-gqa.suffix")
def test_an_instruction_behind_yes_no_questions(tmp_path: Path) -> None:
    """It is asked, it is in the metrics' names, and a description has none. The default leaves no trace in the record."""
    from harness.worlds.pocket import formats
    from harness.worlds.pocket.scenes import generator, make_scenes

    scenes = make_scenes(0, "validation", 2)
    formats._amber(scenes, tmp_path / "amber")
    formats._pope(scenes, tmp_path / "pope", generator("suffix"))
    said = "Please answer yes or no."
    amber = suite(AMBER, nouns="spacy", similarity="exact", suffix=said)
    ending = {
        item.reference["annotation"]["type"] == "generative": item.prompt.endswith(f"? {said}")
        for item in amber.items(tmp_path / "amber")
    }
    assert ending == {True: False, False: True} and amber.variant == f'spacy+exact+suffix "{said}"'
    for kind, prefix in ((POPE, "coco"), (POPEAOKVQA, "aokvqa"), (POPEGQA, "gqa")):
        for path in (tmp_path / "pope").glob("coco_*.json"):
            (tmp_path / "pope" / path.name.replace("coco", prefix)).write_bytes(path.read_bytes())
        asked = suite(kind, suffix=said)
        assert all(item.prompt.endswith(f"image? {said}") for item in asked.items(tmp_path / "pope"))
        assert asked.variant == f'suffix "{said}"' and asked.settings.model_dump() == {"suffix": said}
        plain = suite(kind)
        assert plain.variant == "" and plain.settings.model_dump() == {}
        assert all(item.prompt.endswith("image?") for item in plain.items(tmp_path / "pope"))


@pytest.mark.claims("mmhal.template", "mmhal.template_sha256")
def test_the_prompt_of_mmhal(tmp_path: Path) -> None:
    from harness.core.types import Response

    items = MMHalBench().items(mmhal_folder(tmp_path))
    responses = {item.id: Response(item.id, "yes") for item in items}
    template = tmp_path / "own.txt"
    template.write_text("Rate {model_answer} to {question}")
    prompts = [one.prompt for one in MMHalBench(MMHalSettings(template=template)).judge_requests(items, responses)]
    assert prompts == ["Rate yes to Q?"] * 2
    with pytest.raises(BadInputError, match="SHA-256"):
        MMHalBench(MMHalSettings(template=template, template_sha256="0" * 64)).judge_requests(items, responses)
