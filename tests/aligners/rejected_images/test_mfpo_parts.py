"""MFPO's three parts: keywords, regions and noise; stages by difficulty."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aligners.base import PrepareContext
from aligners.mfpo import StageSettings, split_by_difficulty
from aligners.rejected_images import ImagePreferenceSettings, generate
from aligners.rejected_images.corruptions import noise
from aligners.rejected_images.keyword_graph import GraphConstants, graph_rank, graph_weights
from aligners.rejected_images.keywords import KEYWORD_RULE, Ranking, cluster, keywords, multipartite_rank, pipeline
from aligners.rejected_images.table import FORMAT
from harness.core.diffusion import Diffusion, alpha_bar, random_numbers
from harness.core.errors import BadInputError, HarnessError
from harness.core.files import read_json, sha256_json
from harness.core.types import ImageRef, PreferenceExample, Region


def png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def example(name: str, said: str, regions: tuple[Region, ...]) -> PreferenceExample:
    values = np.random.default_rng(len(name)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return PreferenceExample(
        name,
        "Describe this image.",
        {"original": ImageRef(data=png(values))},
        {"chosen": said, "rejected": "A cup."},
        None,
        regions,
    )


def test_rank_of_two_topics_by_hand() -> None:
    # Two candidates of two topics link to each other with equal weight: by symmetry each has half of the rank.
    np.testing.assert_allclose(multipartite_rank([0, 3], [0, 1]), [0.5, 0.5])


def test_rank_against_a_linear_solution() -> None:
    positions, topics = [0, 2, 5, 9], [0, 1, 0, 2]
    weights = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if topics[i] != topics[j]:
                weights[i, j] = 1 / abs(positions[i] - positions[j])
    # Candidate 0 is the first of its topic; what leads to its sibling 2 is added to what leads to it.
    boosted = weights.copy()
    for source in (1, 3):
        boosted[source, 0] += 1.1 * np.exp(1 / 1) * weights[source, 2]
    step = boosted / boosted.sum(1, keepdims=True)
    exact = np.linalg.solve(np.eye(4) - 0.85 * step.T, np.full(4, 0.15 / 4))
    np.testing.assert_allclose(multipartite_rank(positions, topics), exact / exact.sum(), atol=1e-9)


def test_topics_are_shared_lemmas() -> None:
    assert cluster([("dog",), ("big", "dog"), ("cat",), ("dog",)]) == [0, 0, 1, 0]


def test_keywords_are_things_and_not_colours_or_the_image() -> None:
    ranked = keywords(
        "The image shows two red dogs on the left and a dining table. The dogs sleep.", 5, pipeline("blank")
    )
    assert {"dog", "table"} <= {lemma for keyword in ranked for lemma in keyword.lemmas}
    assert not {"image", "red", "left", "show"} & {lemma for keyword in ranked for lemma in keyword.lemmas}


GRAPH_TEXT = "A dog and a fire hydrant. The dog sits near a bench; the bench is green, and a man walks by."


def test_the_graphs_weights_and_ranks_against_the_printed_formulas_in_float64() -> None:
    places, vectors = [[0, 7], [3], [11, 13], [20]], np.random.default_rng(0).normal(size=(4, 5))
    vectors[3] = 0  # a word without a vector is like no other
    constants = GraphConstants(phi=1.3, gamma=0.7, lambda_=0.05, alpha=0.9)
    omega = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if i != j:
                theta = sum(1 / (1 + abs(a - b) ** 1.3) for a in places[i] for b in places[j])
                norm = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
                sigma = 0.7 * max(0.0, float(vectors[i] @ vectors[j]) / norm) if norm else 0.0
                omega[i, j] = (theta + sigma) * math.exp(-0.05 * places[i][0])
    weights = graph_weights(places, vectors, constants)
    np.testing.assert_allclose(weights, omega, rtol=1e-12)
    step = omega / omega.sum(1)[None, :]  # omega_ij over the sum of omega_jm over m
    exact = np.linalg.solve(np.eye(4) - 0.9 * step, np.full(4, 0.1))
    np.testing.assert_allclose(graph_rank(weights, 0.9), exact, rtol=1e-9)


def test_two_words_of_the_graph_by_hand() -> None:
    # theta = 1 / (1 + 3); the first word stands at 0, the second at 3. With M_01 = w_01 / w_10 = 1 / e and M_10 = e, where
    # e = exp(-3 lambda): r_0 = (1 - a) + a r_1 / e and r_1 = (1 - a) + a r_0 e.
    e, a = math.exp(-0.3), 0.85
    omega = graph_weights([[0], [3]], None, GraphConstants(lambda_=0.1))
    assert omega == pytest.approx(np.array([[0, 0.25], [0.25 * e, 0]]))
    first = (1 - a) * (1 + a / e) / (1 - a * a)
    assert graph_rank(omega) == pytest.approx([first, (1 - a) + a * first * e])
    assert graph_rank(graph_weights([[4]], None)) == pytest.approx([0.15])  # a word alone


def test_the_graphs_keywords_are_things_and_neighbours_are_one() -> None:
    ranked = keywords(GRAPH_TEXT, 5, pipeline("blank"), "graph")
    assert ranked[0].phrase == "dog"
    assert "fire hydrant" in [keyword.phrase for keyword in ranked]
    assert not {"fire", "hydrant", "green"} & {keyword.phrase for keyword in ranked}
    assert [keyword.weight for keyword in ranked] == sorted((keyword.weight for keyword in ranked), reverse=True)
    assert keywords("It is.", 5, pipeline("blank"), "graph") == []


@pytest.mark.parametrize("ranking", ["graph", "multipartite"])
def test_a_word_at_the_start_of_a_sentence_is_the_same_word_as_elsewhere(ranking: Ranking) -> None:
    [(lemma, *_)] = {keyword.lemmas for keyword in keywords("Dogs. The dogs are there.", 5, pipeline("blank"), ranking)}
    assert lemma == "dog"
    [child] = keywords("Children are there. A child is there.", 5, pipeline("blank"), ranking)
    assert child.lemmas == ("child",)
    [hydrants] = keywords("Fire hydrants are near us. The fire hydrants are there.", 5, pipeline("blank"), ranking)
    assert hydrants.phrase == "fire hydrants"
    # The table has this plural in capital letters only.
    [people] = keywords("Africans are there.", 5, pipeline("blank"), ranking)
    assert people.lemmas == ("african",)


def test_pipelines_of_other_languages_have_parts_of_speech_without_tags_or_no_noun_chunks() -> None:
    import spacy
    from spacy.language import Language

    @Language.component("parts_of_speech_and_heads")
    def annotated(doc: Any) -> Any:
        for token, kind in zip(doc, ("DET", "NOUN", "VERB"), strict=True):
            token.pos_, token.dep_, token.head, token.lemma_ = kind, "dep", doc[1], token.lower_
        return doc

    for language, text, noun in (("fr", "le chien dort", "chien"), ("ro", "un câine doarme", "câine")):
        nlp = spacy.blank(language)
        nlp.add_pipe("parts_of_speech_and_heads")
        assert not nlp(text).has_annotation("TAG")
        assert [keyword.phrase for keyword in keywords(text, 5, nlp, "graph")] == [noun]
    # spaCy knows no noun chunks of Romanian, so the candidates are runs of words that are no stop words.
    assert [noun in keyword.phrase for keyword in keywords(text, 5, nlp, "multipartite")] == [True]


@pytest.mark.parametrize(("component", "said"), [("no_such_factory", "no_such_factory"), (None, "not installed")])
def test_a_pipeline_that_cannot_be_loaded_is_said(component: str | None, said: str, tmp_path: Path) -> None:
    if component:
        (tmp_path / "meta.json").write_text('{"lang": "en", "name": "x", "version": "0"}')
        factory = f'[nlp]\nlang="en"\npipeline=["{component}"]\n[components]\n[components.{component}]\nfactory="{component}"\n'
        (tmp_path / "config.cfg").write_text(factory)
    with pytest.raises(BadInputError, match=said):
        pipeline(str(tmp_path))


def test_a_box_is_found_by_the_first_word_of_a_sentence_and_older_sets_are_not_used(tmp_path: Path) -> None:
    rows = [example("a", "Dogs chase a ball.", (Region("dog", (10, 5, 30, 25)),))]
    _, notes = generate(rows, ImagePreferenceSettings(), PrepareContext(tmp_path, 0))
    assert (notes.regions, notes.whole_image) == (1, 0)
    config = read_json(Path(str(notes.kept_in)) / "config.json", "configuration")
    assert config["pipeline_and_models"]["keyword_rule"] == KEYWORD_RULE
    # The names of sets that use no keywords are those of earlier versions.
    whole = ImagePreferenceSettings(corruption="whole-noise")
    kept_in = Path(str(generate(rows, whole, PrepareContext(tmp_path, 0))[1].kept_in))
    contents = {"contents": read_json(kept_in / "config.json", "configuration")["contents"]}
    assert kept_in.name == sha256_json([FORMAT, contents, whole.determining(), 0])[:32]


@pytest.mark.claims("images.keywords")
def test_a_manifest_says_how_keywords_were_ranked_and_that_there_were_no_vectors(tmp_path: Path) -> None:
    rows = [example("a", "A red dog.", (Region("dog", (10, 5, 30, 25)),))]
    _, notes = generate(rows, ImagePreferenceSettings(), PrepareContext(tmp_path, 0))
    assert notes.keywords["ranking"] == "graph" and notes.keywords["constants"]["gamma"] == 0
    assert "no word vectors" in notes.keywords["vectors"]
    _, other = generate(rows, ImagePreferenceSettings(keywords="multipartite"), PrepareContext(tmp_path, 0))
    assert other.keywords == {"ranking": "multipartite", "pipeline": "blank"}
    assert other.kept_in != notes.kept_in


@pytest.mark.parametrize("step", [0, 250, 500, 999])
def test_both_schedules_are_their_closed_forms(step: int) -> None:
    ddpm, vcd = Fraction(1), Fraction(1)
    for s in range(1, step + 1):
        ddpm *= 1 - (Fraction(1, 10_000) + Fraction(199, 10_000) * Fraction(s - 1, 999))
        ddpm = ddpm.limit_denominator(10**30)
    for s in range(step + 1):
        beta = (5e-3 - 1e-5) / (1 + math.exp(6 - 12 * s / 999)) + 1e-5
        vcd = (vcd * (1 - Fraction(beta))).limit_denominator(10**30)
    assert alpha_bar(step, "ddpm") == pytest.approx(float(ddpm), rel=1e-12)
    assert alpha_bar(step, "vcd") == pytest.approx(float(vcd), rel=1e-12)


def test_half_of_the_steps_leave_what_the_papers_say() -> None:
    assert alpha_bar(500, "vcd") == pytest.approx(0.745, abs=5e-4)
    assert alpha_bar(500, "ddpm") == pytest.approx(0.08, abs=2e-3)


@pytest.mark.parametrize(("schedule", "step"), [("vcd", 1000), ("vcd", -1), ("ddpm", 1001)])
def test_a_schedule_has_no_other_steps(schedule: str, step: int) -> None:
    with pytest.raises(ValueError, match=f"the schedule '{schedule}' has steps 0 to"):
        alpha_bar(step, schedule)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "mean", "deviation"),
    [
        ("unit", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ],
)
def test_noise_is_inside_the_mask_only_and_has_the_schedules_statistics(
    scale: str, mean: tuple[float, ...], deviation: tuple[float, ...]
) -> None:
    image = np.full((400, 400, 3), 128, np.uint8)
    mask = np.zeros((400, 400), bool)
    mask[50:350, 50:350] = True
    diffusion = Diffusion(40, "ddpm", scale)  # type: ignore[arg-type]
    noisy = noise(image, mask, random_numbers("seed"), diffusion)
    assert np.array_equal(noisy[~mask], image[~mask])
    # On the normalised scale, where the noise is added.
    before = (128 / 255 - np.array(mean)) / deviation
    inside = (noisy[mask] / 255.0 - np.array(mean)) / deviation
    assert inside.mean(0) == pytest.approx(np.sqrt(diffusion.kept) * before, abs=0.005)
    assert inside.std(0) == pytest.approx(np.sqrt(1 - diffusion.kept), rel=0.02)
    assert np.array_equal(noisy, noise(image, mask, random_numbers("seed"), diffusion))
    assert not np.array_equal(noisy, noise(image, mask, random_numbers("other seed"), diffusion))


@pytest.mark.claims("images.corruption")
def test_random_regions_and_whole_noise_ask_no_detector(tmp_path: Path) -> None:
    rows = [example(name, "A red dog.", ()) for name in ("a", "bb")]
    for corruption, made in (
        ("random-regions", "random-regions"),
        ("whole-noise", "whole-image"),
        ("crop", "whole-image"),
    ):
        settings = ImagePreferenceSettings(corruption=corruption, regions="grounding-dino+sam", detector="/nowhere")
        _, notes = generate(rows, settings, PrepareContext(tmp_path, 0))
        assert (notes.written()[made], notes.source) == (2, None)
        kept = pq.read_table(next(Path(notes.kept_in).glob("*.parquet"))).to_pylist()
        assert {row["region_source"] for row in kept} == {None}
        if corruption == "random-regions":
            assert [np.asarray(Image.open(io.BytesIO(row["mask"]))).sum() for row in kept] == [480, 480]


@pytest.mark.claims("images.step")
def test_generator_keeps_what_is_outside_the_named_boxes(tmp_path: Path) -> None:
    rows = [
        example("a", "A red dog.", (Region("dog", (10, 5, 30, 25)), Region("cup", (35, 5, 55, 25)))),
        example("bb", "A boat.", (Region("dog", (10, 5, 30, 25)),)),
    ]
    made, notes = generate(rows, ImagePreferenceSettings(step=900), PrepareContext(tmp_path, 0))
    assert (notes.regions, notes.whole_image, notes.source) == (1, 1, "dataset")
    before, after = (np.asarray(made[0].images[name].open()) for name in ("original", "rejected"))
    changed = (before != after).any(-1)
    mask = np.zeros((40, 60), bool)
    mask[5:25, 10:30] = True
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.9
    assert (np.asarray(made[1].images["rejected"].open()) != np.asarray(made[1].images["original"].open())).any(
        -1
    ).mean() > 0.9
    kept = pq.read_table(next(Path(notes.kept_in).glob("*.parquet"))).to_pylist()
    assert kept[0]["keywords"] and kept[0]["boxes"] == [[10, 5, 30, 25]] and kept[0]["step"] == 900
    again, _ = generate(rows, ImagePreferenceSettings(step=900), PrepareContext(tmp_path, 0))
    assert again[0].images["rejected"].data == made[0].images["rejected"].data


def test_a_run_with_the_images_of_its_data_names_no_corruption(tmp_path: Path) -> None:
    rows = [example(name, "A boat.", ()) for name in ("a", "bb")]
    given = [replace(row, images={**row.images, "rejected": row.images["original"]}) for row in rows]
    settings = ImagePreferenceSettings(corruption="whole-noise")
    written = [
        generate(some, settings, PrepareContext(tmp_path, 0))[1].written() for some in (given, [given[0], rows[1]])
    ]
    assert (written[0]["given"], written[0]["source"], written[0]["kept_in"]) == (2, "given", None)
    assert not {"corruption", "step", "schedule", "scale", "strength", "levels"} & written[0].keys()
    assert (written[1]["given"], written[1]["source"], written[1]["corruption"]) == (1, None, "whole-noise")


def test_an_image_that_the_corruption_leaves_as_it_is_is_not_taken_for_a_rejected_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = example("a", "A red dog.", (Region("dog", (10, 5, 30, 25)),))
    values = np.full((40, 60, 3), 200, np.uint8)
    values[5:25, 10:30] = 0
    rows = [
        replace(row, id=name, images={"original": ImageRef(data=png(picture))})
        for name, picture in (("partly", values), ("black", np.zeros_like(values)))
    ]
    settings = ImagePreferenceSettings(corruption="black")
    made, notes = generate(rows, settings, PrepareContext(tmp_path, 0))
    assert (notes.regions, notes.whole_image, notes.unchanged, notes.examples) == (0, 1, 1, 2)
    assert not np.asarray(made[0].images["rejected"].open()).any()
    assert "the rejected image of 1 of 2 examples is the same as the original" in caplog.text
    dropping = settings.model_copy(update={"on_nothing": "drop"})
    assert generate(rows, dropping, PrepareContext(tmp_path, 0))[1].dropped == 2
    # Of a list of images, none is the original.
    _, listed = generate(
        rows, settings.model_copy(update={"corruption": "cover"}), PrepareContext(tmp_path, 0), (0.5, 1)
    )
    assert (listed.regions, listed.whole_image, listed.unchanged) == (0, 1, 1)


def test_a_step_without_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="adds no noise; take a step from 1"):
        ImagePreferenceSettings(step=0, schedule="ddpm")
    assert ImagePreferenceSettings(step=0).diffusion  # VCD's steps count from 0
    settings = ImagePreferenceSettings(step=4, schedule="ddpm")
    with pytest.raises(BadInputError, match=r"the level 0\.1 .* is step 0, which adds no noise"):
        generate([example("a", "A boat.", ())], settings, PrepareContext(tmp_path, 0), (0.1, 1))


def test_a_label_of_two_words_is_found_whatever_its_lemmas_are(tmp_path: Path) -> None:
    rows = [
        example("a", "A dining table.", (Region("dining table", (10, 5, 30, 25)),)),
        example("bb", "Two tables.", (Region("dining table", (1, 5, 30, 25)),)),
    ]
    _, notes = generate(rows, ImagePreferenceSettings(), PrepareContext(tmp_path, 0))
    assert notes.regions == 2


@pytest.mark.claims("images.on_nothing")
def test_nothing_found_can_be_dropped_and_is_counted(tmp_path: Path) -> None:
    rows = [
        example("a", "A red dog.", (Region("dog", (10, 5, 30, 25)),)),
        example("bb", "A boat.", (Region("dog", (10, 5, 30, 25)),)),
    ]
    made, notes = generate(rows, ImagePreferenceSettings(on_nothing="drop"), PrepareContext(tmp_path, 0))
    assert [one.id for one in made] == ["a"]
    assert notes.dropped == 1


@pytest.mark.claims("images.detector", "images.segmenter")
def test_detector_and_segmenter_of_the_real_architectures_run(tmp_path: Path) -> None:
    from tests.tiny_detectors import tiny_grounding_dino, tiny_sam

    settings = ImagePreferenceSettings(
        regions="grounding-dino+sam",
        detector=str(tiny_grounding_dino(tmp_path / "dino")),
        segmenter=str(tiny_sam(tmp_path / "sam")),
        box_threshold=0.01,
        text_threshold=0.01,
    )
    made, notes = generate([example("a", "A red dog.", ())], settings, PrepareContext(tmp_path, 0))
    assert notes.source == "grounding-dino+sam"
    assert notes.regions + notes.whole_image == 1
    assert made[0].images["rejected"].open().size == (60, 40)


@pytest.mark.claims("mfpo.stages.borders")
def test_stages_are_cut_by_entropy_easy_first() -> None:
    rows = [example(name, "A dog.", ()) for name in ("a", "b", "c", "d", "e", "f")]
    stages = split_by_difficulty(rows, [0.5, 0.1, 0.9, 0.3, 0.7, 0.2], StageSettings())
    assert [(stage.name, [one.id for one in stage.examples]) for stage in stages] == [
        ("easy", ["b", "f"]),
        ("medium", ["d", "a"]),
        ("hard", ["e", "c"]),
    ]
    uneven = split_by_difficulty(rows, [0.5, 0.1, 0.9, 0.3, 0.7, 0.2], StageSettings(count=2, borders=(1 / 3,)))
    assert [len(stage.examples) for stage in uneven] == [2, 4]
    with pytest.raises(ValueError, match="increasing borders"):
        StageSettings(count=3, borders=(0.9, 0.1))


def test_most_keywords_name_what_is_to_be_seen_and_the_graph_is_no_worse_than_multipartite_rank() -> None:
    from tests.keywords.__main__ import measure

    share = {
        ranking: right / count
        for ranking in ("graph", "multipartite")
        for right, count, _ in [measure("blank", ranking)]
    }
    assert share["graph"] > 0.6 and share["graph"] >= share["multipartite"]


def test_mfpo_takes_the_papers_data_and_an_embedded_world_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.alignment.align import AlignRequest, run_align
    from tests.tiny import tiny_llava

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = str(tiny_llava(tmp_path / "model"))
    for method, said, hub in (
        ("mfpo", "rlhf-v", "openbmb/RLHF-V-Dataset"),
        ("dpo", "rlaif-v", "openbmb/RLAIF-V-Dataset"),
    ):
        with pytest.raises(HarnessError, match=hub):  # it is said before the hub is asked, which is not there
            run_align(AlignRequest(method, model, tmp_path / "results"))
        assert f"preference data: {said} (the default for" in capsys.readouterr().err


def test_the_model_card_tells_the_papers_from_ours() -> None:
    from aligners.dpo import DPO
    from aligners.mfpo import MFPO
    from harness.checkpoints.card import model_card
    from harness.records.manifest_file import CardManifest

    about = {
        "kind": "align",
        "config": {"method": "m", "model": "m", "data": "d", "settings": {}},
        "checkpoint": {"kind": "adapter", "fingerprint": "f"},
        "base": {"label": "m", "location": "/somewhere", "fingerprint": "f"},
        "summary": {"data": {"examples": 1, "fingerprint": "f"}},
        "harness": "0",
        "finished": "2026-11-25T",
        "wall_seconds": 1.0,
        "hardware": {"gpus": [], "cores": 2},
    }
    manifest = CardManifest.model_validate(about)
    cards = [
        model_card(manifest, {"summary": kind.summary, "source": kind.source, "ours": kind.ours}, [])
        for kind in (MFPO, DPO)
    ]
    assert "- Not the paper's: " in cards[0] and "docs/mfpo.md" in cards[0]
    assert "Not the paper's" not in cards[1]
