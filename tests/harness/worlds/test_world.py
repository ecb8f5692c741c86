"""The drawn world: the same bytes everywhere, disjoint splits, truth that fits the pictures, files that the readers read."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.amber import AMBER
from benchmarks.halbench import ObjectHalBench
from benchmarks.hallusionbench import HallusionBench
from benchmarks.llava_bench import LLaVABench
from benchmarks.mm_vet import MMVet
from benchmarks.mme import MME
from benchmarks.mmhal import MMHalBench
from benchmarks.mmstar import MMStar
from benchmarks.pope import POPE
from harness.core.types import ImageRef
from harness.worlds.pocket import general, text
from harness.worlds.pocket.draw import draw, png
from harness.worlds.pocket.formats import write_benchmarks
from harness.worlds.pocket.preferences import changed_spans
from harness.worlds.pocket.scenes import BIAS, CLASSES, PARTNER, SIDE, Scene, generator, make_scenes

SPLITS = ("train", "preference", "validation", "test")


def test_the_same_seed_gives_the_same_bytes() -> None:
    """The digest holds for any machine; it changes only with the world itself."""
    digest = hashlib.sha256()
    for scene in make_scenes(0, "test", 20):
        assert not scene.unsaid and not scene.clutter
        digest.update(repr(scene).replace(", unsaid=(), clutter=()", "").encode())
    assert digest.hexdigest()[:16] == "1c45d0b9a7583455"
    again = [np.asarray(draw(scene)) for scene in make_scenes(0, "test", 20)]
    assert all(
        (one == np.asarray(draw(scene))).all() for one, scene in zip(again, make_scenes(0, "test", 20), strict=True)
    )


def test_splits_and_seeds_share_no_scene() -> None:
    seen = [
        repr((scene.things, scene.noise))
        for seed in (0, 1)
        for split in SPLITS
        for scene in make_scenes(seed, split, 300)
    ]
    assert len(set(seen)) == len(seen)


def test_objects_do_not_overlap_and_lie_inside() -> None:
    for scene in make_scenes(3, "test", 300):
        assert 1 <= len(scene.things) <= 4 and len(scene.names) == len(scene.things)
        for thing in scene.things:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= SIDE and 0 <= top < bottom <= SIDE
        for placed in scene.things:
            for other in scene.things:
                apart = (
                    placed.box[2] <= other.box[0]
                    or other.box[2] <= placed.box[0]
                    or placed.box[3] <= other.box[1]
                    or other.box[3] <= placed.box[1]
                )
                assert placed is other or apart


def test_every_object_is_drawn_where_its_box_is() -> None:
    """Without its objects the picture is a plain background: outside the boxes nothing may change."""
    import dataclasses

    for scene in make_scenes(4, "test", 30):
        empty = np.asarray(draw(dataclasses.replace(scene, things=()))).astype(int)
        full = np.asarray(draw(scene)).astype(int)
        changed = (full != empty).any(-1)
        for thing in scene.things:
            left, top, right, bottom = thing.box
            assert changed[top:bottom, left:right].mean() > 0.05, thing
            changed[top:bottom, left:right] = False
        assert not changed.any()


def test_co_occurrence_is_broken_in_the_test_split() -> None:
    def together(split: str) -> float:
        firsts = [scene for scene in make_scenes(0, split, 3000) if scene.names & set(PARTNER)]  # type: ignore[arg-type]
        return float(np.mean([any(PARTNER.get(name) in scene.names for name in scene.names) for scene in firsts]))

    assert together("train") > 0.7 > 0.5 > together("test")


@pytest.mark.slow
def test_training_captions_name_absent_partners_as_often_as_they_should() -> None:
    rng = generator("test")
    named: dict[str, list[bool]] = {name: [] for name in PARTNER}
    for scene in make_scenes(0, "train", 12_000):
        said = {mention.name for mention in text.biased_mentions(scene, rng)}
        for name in scene.names:
            if name in PARTNER and PARTNER[name] not in scene.names:
                named[name].append(PARTNER[name] in said)
    for name, hits in named.items():
        assert abs(np.mean(hits) - BIAS[name]) < 4 * np.sqrt(BIAS[name] * (1 - BIAS[name]) / len(hits)), name


@pytest.mark.parametrize("style", range(text.STYLES))
def test_captions_are_read_back(style: int) -> None:
    for scene in make_scenes(5, "test", 200):
        mentions = text.faithful_mentions(scene)
        parsed = text.parse_caption(text.write_caption(mentions, style))
        assert parsed is not None and parsed[0] == style
        assert [mention.name for mention in parsed[1]] == [mention.name for mention in mentions]
    assert text.parse_caption("The image shows a unicorn.") is None
    assert text.parse_caption("") is None


def test_changed_spans_are_the_words_that_differ() -> None:
    one, other = "The image shows a dog.", "The image shows a dog and a frisbee."
    chosen, rejected = changed_spans(one, other)
    assert chosen == [] and [other[a:b] for a, b in rejected] == ["and a frisbee"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_benchmarks(0, "validation", folder)
    return folder


def test_the_official_formats_are_read_by_the_suites(files: Path) -> None:
    truth = {scene.index: scene for scene in make_scenes(0, "validation", 746)}
    items = ObjectHalBench().items(files / "halbench")
    assert len(items) == 300 and len({item.prompt for item in items}) == 8
    pope = POPE().items(files / "pope")
    assert {item.reference["split"] for item in pope} == {"random", "popular", "adversarial"}
    for item in pope:
        index = int(Path(item.image.path or "").stem.rpartition("_")[2]) - 1
        name = next(one for one in CLASSES if item.prompt == text.exists(one))
        assert (name in truth[index].names) == (item.reference["label"] == "yes")
    for split in ("random", "popular", "adversarial"):
        labels = [item.reference["label"] for item in pope if item.reference["split"] == split]
        assert labels.count("yes") == labels.count("no")
    amber = AMBER().items(files / "amber")
    assert len({item.image.path for item in amber}) == 200
    mmhal = MMHalBench().items(files / "mmhal")
    assert len(mmhal) == 96


def test_questions_of_the_general_suites_have_the_truth_of_their_scenes(files: Path) -> None:
    scenes = make_scenes(0, "validation", 746 + general.MMSTAR + general.MME + general.HALLUSION)
    drawn = {ImageRef(data=png(draw(scene))).fingerprint(): scene for scene in scenes[746:]}
    choices = MMStar().items(files / "mmstar")
    assert len(choices) == 240 and {item.reference["answer"] for item in choices} == set("ABCD")
    for item in choices:
        scene, options = drawn[item.image.fingerprint()], item.reference["options"]
        right = options[item.reference["answer"]]
        true = [option for option in options.values() if _holds(item.prompt, option, scene)]
        assert true == [right] and len(options) in (2, 4), item.prompt
    asked = MME().items(files / "mme")
    assert Counter(item.reference["task"] for item in asked) == dict.fromkeys(
        ("existence", "count", "position", "color"), 60
    )
    for item in asked:
        assert _holds(item.prompt, "Yes", drawn[item.image.fingerprint()]) == (item.reference["label"] == "yes"), item


def test_edited_copies_have_the_truth_of_what_is_drawn(files: Path) -> None:
    items = HallusionBench().items(files / "hallusionbench")
    first = 746 + general.MMSTAR + general.MME
    for scene in make_scenes(0, "validation", first + general.HALLUSION)[first:]:
        of_scene = [item for item in items if item.reference["place"]["set_id"] == str(scene.index)]
        for item in of_scene:
            edited = item.reference["place"]["visual_input"] == "2"
            if not edited and not item.image.absent:
                assert item.image.fingerprint() == ImageRef(data=png(draw(scene))).fingerprint()
            if not edited:
                assert _holds(item.prompt, "Yes", scene) == (item.reference["label"] == "yes")
        pairs = {item.reference["question"]: set() for item in of_scene}  # type: ignore[var-annotated]
        for item in of_scene:
            pairs[item.reference["question"]].add(item.reference["label"])
        assert not of_scene or {"yes", "no"} in pairs.values(), "the edit changes an answer"
    assert 0 < sum(item.image.absent for item in items) < len(items) / 2


def test_the_judge_knows_the_truth_of_open_questions(files: Path) -> None:
    """The true answers get the best ratings, an answer about what is not there a bad one."""
    from harness.core.stats import Counts
    from harness.core.types import Response
    from harness.worlds.pocket.judge import PocketTruthJudge

    for suite, name, metric, best in ((LLaVABench(), "llava-bench", "relative", 100), (MMVet(), "mm-vet", "total", 1)):
        items = suite.items(files / name)
        wrong = []
        for text_of in (suite.truth, lambda _: "The unicorn is pink."):
            said = {item.id: Response(item.id, text_of(item)) for item in items}
            wrong.append(
                float(suite.aggregate(Counts.of(suite.score(items, said, PocketTruthJudge())).totals())[metric])
            )
        assert wrong[0] == best and wrong[1] < 0.45 * best, name


def _holds(question: str, answer: str, scene: Scene) -> bool:
    """Whether an answer to a question is true of a scene, read from its words."""
    words = question.lower()
    named = sorted((thing for thing in scene.things if thing.name in words), key=lambda thing: words.index(thing.name))
    if words.startswith("how many"):
        return answer == text.NUMBERS[len(scene.things)]
    if words.startswith("what color"):
        return answer == named[0].colour
    if words.startswith("where"):
        return answer == text.place(named[0])
    if words.startswith("which"):
        return answer in scene.names
    if "to the left of" in words:
        said = named[0].centre[0] < named[1].centre[0]
    elif "object" in words:
        said = f" {text.NUMBERS[len(scene.things)]} object" in words
    elif words.startswith(("is there", "are there")):
        said = bool(named)
    else:
        said = f"{named[0].name} {named[0].colour} in" in words
    return said == (answer == "Yes")


def test_no_two_suites_share_a_picture(files: Path) -> None:
    shown = [item.image for item in HallusionBench().items(files / "hallusionbench") if not item.image.absent]
    hallusion = {image.fingerprint() for image in shown}
    pictures = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files.rglob("*.png"))]
    pictures = [digest for digest in pictures if digest not in hallusion]
    pictures += {item.image.fingerprint() for item in MMStar().items(files / "mmstar")}
    assert not hallusion & set(pictures) and len(hallusion) == len({image.path for image in shown})
    others = 4 * general.MME_IMAGES + general.MMSTAR + general.LLAVA + general.MMVET
    assert len(pictures) == 746 + others and len(set(pictures)) == len(pictures)


def test_perfect_answers_have_perfect_scores(files: Path) -> None:
    """The faithful caption of every scene has no hallucination and full recall."""
    from harness.core.stats import Counts
    from harness.core.types import Response

    truth = {scene.index: scene for scene in make_scenes(0, "validation", 746)}
    suite = ObjectHalBench()
    items = suite.items(files / "halbench")
    said = {}
    for number, item in enumerate(items):
        scene = truth[number]
        said[item.id] = Response(item.id, text.write_caption(text.faithful_mentions(scene), number % text.STYLES))
    values = suite.aggregate(Counts.of(suite.score(items, said)).totals())
    assert float(values["chair_s"]) == 0 and float(values["object_recall"]) == 1


def test_rows_of_preferences_are_what_the_readers_read(tmp_path: Path) -> None:
    from aligners.preferences import read_preferences
    from harness.worlds.pocket.preferences import make_pairs, sample_base, write_preferences
    from harness.worlds.pocket.training import Base
    from tests.tiny import tiny_parts

    model, processor = tiny_parts()
    pairs = make_pairs(sample_base(Base(model.eval(), processor), 0, 30), 0)
    write_preferences(pairs, tmp_path)
    for name in ("rlaif-v", "rlhf-v"):
        found = read_preferences(str(tmp_path / f"{name}.parquet"), cache=tmp_path)
        assert len(found.examples) == 30 and not found.dropped
        for example, pair in zip(found.examples, pairs, strict=True):
            assert {region.label for region in example.regions} == pair.scene.names
            assert example.responses["rejected"] == pair.rejected
            assert example.images["original"].open().size == (SIDE, SIDE)
    for pair in pairs:
        parsed = text.parse_caption(pair.faithful)
        assert parsed is not None and {mention.name for mention in parsed[1]} == pair.scene.names
        wrong = text.parse_caption(pair.rejected)
        assert wrong is not None and {mention.name for mention in wrong[1]} - pair.scene.names


@pytest.mark.slow
def test_a_part_is_made_once_and_its_key_ignores_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.worlds.pocket.world import PocketWorld, _code_hash

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    first = PocketWorld(7).benchmarks("validation")
    stamp = first.stat().st_mtime_ns
    assert PocketWorld(7).benchmarks("validation") == first and first.stat().st_mtime_ns == stamp
    assert PocketWorld(8).benchmarks("validation") != first
    plain, two, three = (tmp_path / f"{name}.py" for name in "abc")
    plain.write_text('"""Words."""\nx = 1  # why\n')
    two.write_text("x = (\n    1\n)\n")
    three.write_text("x = 2\n")
    assert _code_hash(plain) == _code_hash(two) != _code_hash(three)


def test_texts_side_by_side_give_the_loss_and_gradient_of_texts_apart() -> None:
    import torch

    from harness.worlds.pocket import training
    from tests.tiny import tiny_parts

    model, processor = tiny_parts()
    base = training.Base(model, processor)
    scenes, rng = make_scenes(0, "train", 6), generator("side by side", 0)
    pairs = [training._training_pair(scene, "questions", rng) for scene in scenes for _ in range(3)]
    features = base.features(training.pictures_of(scenes))
    weight = model.model.language_model.layers[1].self_attn.q_proj.weight
    together = training._language_loss(base, pairs, features)
    apart = training._language_loss(base, pairs, features.repeat_interleave(3, 0))
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (together, apart)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-3)
    assert gradients[0].abs().max() > 1e-5


def test_the_last_layer_gives_the_text_what_the_whole_model_gives_it() -> None:
    import torch

    from harness.worlds.pocket import network, training

    scenes, rng = make_scenes(0, "train", 4), generator("last layer", 0)
    tokenizer = network.build_tokenizer(training._corpus(scenes, 0))
    base = training.Base(network.build_model(tokenizer, 0), network.build_processor(tokenizer))
    rows = training.encode_rows(base, [training._training_pair(scene, "captions", rng) for scene in scenes], 1)
    inner = base.model.model
    pictures = inner.multi_modal_projector(base.features(training.pictures_of(scenes)))
    embedded = torch.cat([pictures, inner.language_model.embed_tokens(rows.ids)], 1)
    whole = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, network.IMAGE_TOKENS :]
    part = network.text_states(inner.language_model, embedded, rows.mask, rows.positions)
    words = rows.ids != tokenizer.pad_token_id
    part, whole = part[words], whole[words]
    torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)
    weights = [layer.self_attn.k_proj.weight for layer in inner.language_model.layers]
    for one, other in zip(*(torch.autograd.grad(x.square().mean(), weights) for x in (part, whole)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_bfloat16_is_multiplied_only_where_the_machine_can(
    has_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from harness.models import devices
    from harness.worlds.pocket import arithmetic
    from harness.worlds.pocket.world import _key

    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: has_instructions)
    kind = torch.bfloat16 if has_instructions else torch.float32
    with arithmetic.of_models():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Muon([weight], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
    with arithmetic.of_optimizers():
        optimizer.step()
    assert weight.dtype == torch.float32
    turned = weight.grad.double().T / weight.grad.double().norm()  # Jordan et al., 2024: five steps of the quintic
    for _ in range(5):
        gram = turned @ turned.T
        turned = 3.4445 * turned + (-4.775 * gram + 2.0315 * gram @ gram) @ turned
    wanted = -turned.T * (6 / 4) ** 0.5
    difference = float((weight.detach().double() - wanted).abs().max())
    assert difference < 1e-5 if not has_instructions else 1e-4 < difference < 0.1
    _key.cache_clear()
    here = _key("model", (), False)
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: not has_instructions)
    _key.cache_clear()
    assert _key("model", (), False) != here
    _key.cache_clear()
