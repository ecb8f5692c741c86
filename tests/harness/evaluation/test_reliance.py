"""`harness eval --noise`: what the model is shown, what is asked and kept, and what the comparison with the plain answers says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.analysis.leaderboard import collect
from harness.analysis.reliance import changed_scores, reliance_tables
from harness.core.diffusion import alpha_bar
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.core.types import NO_IMAGE, ImageRef, Item
from harness.evaluation.evaluate import run_eval
from harness.evaluation.pictures import Change
from harness.evaluation.plan import plan_eval
from harness.evaluation.request import EvalRequest
from harness.evaluation.shards import Shard
from harness.evaluation.stored import run_merge
from harness.remote.endpoint import KEY_VARIABLE
from harness.runs.folders import find_run
from harness.runs.targets import target_of_endpoint
from harness.serving.openai import OpenAIBackend
from tests.commands import harness, run_here
from tests.harness.serving.fake_vision import SECRET, VisionServer, seeing, small_pope
from tests.tiny import tiny_photograph

NOISE, BLANK, SHUFFLED = Change("noise", 500), Change("blank"), Change("shuffled")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_pope(tmp_path)


def number_in(prompt: str) -> int:
    """A question's number; what the backend asks before it begins has none."""
    return int((re.findall(r"\d+", prompt) or ["0"])[-1])


def asked(server: VisionServer) -> int:
    """How many of the suite's questions were answered."""
    return sum(times for (_, prompt), times in server.answered.items() if prompt.startswith("Is there"))


@pytest.fixture
def server(folder: Path) -> Iterator[VisionServer]:
    """A model that is right about the picture that belongs to the question (every other answer is yes), and says no to any other."""
    pictures = [path.read_bytes() for path in sorted((folder / "data" / "pope" / "images").iterdir())]

    def say(image: bytes, prompt: str) -> str:
        number = number_in(prompt)
        right = image == pictures[number // 4]
        return "Yes." if right and number % 2 == 0 else "No."

    with seeing() as running:
        running.say = say
        yield running


def request(folder: Path, server: VisionServer, results: str = "results", **more: Any) -> EvalRequest:
    settings = {"backend": {"endpoints": [server.url]}} | more.pop("scoring", {})
    data, suites = str(folder / "data"), more.pop("suites", ["pope"])
    return EvalRequest(
        [target_of_endpoint(server.model, folder / results)], suites, data, OpenAIBackend, settings, **more
    )


def items(folder: Path, count: int = 4) -> list[Item]:
    """So many items with a picture each."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        tiny_photograph(folder / f"{number}.png", number)
    return [Item(str(n), "What?", ImageRef(folder / f"{n}.png"), str(n)) for n in range(count)]


def pool(given: list[Item]) -> list[ImageRef]:
    return [item.image for item in given]


def test_what_the_option_takes() -> None:
    assert Change.parse_list("0, 999,blank,shuffled") == [Change("noise", 0), Change("noise", 999), BLANK, SHUFFLED]
    for text, said in (
        ("1000", "step 1000 does not exist"),
        ("-1", "step -1 does not exist"),
        ("blank,grey", "'grey' is not a known change"),
        ("", "'' is not a known change"),
        ("500,500", "noise 500 twice"),
        ("0500,500", "step .* does not exist|not a known change|twice"),
        ("1e2", "'1e2' is not a known change"),
    ):
        with pytest.raises(BadInputError, match=said):
            Change.parse_list(text)


def test_noise_is_vcds_the_same_at_every_step_and_depends_on_the_picture_alone(tmp_path: Path) -> None:
    given = items(tmp_path)
    mean, scale = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    noises = []
    for step in (250, 500):
        [changed, *_] = Change("noise", step).items(given, pool(given), "s")
        pixels, noised = (np.asarray(one.open()).astype(float) for one in (given[0].image, changed.image))
        kept = alpha_bar(step, "vcd")
        before, after = ((one / 255 - mean) / scale for one in (pixels, noised))
        noise = (after - np.sqrt(kept) * before) / np.sqrt(1 - kept)
        inside = (noised > 0) & (noised < 255)
        noises.append(np.where(inside, noise, np.nan))
        assert changed.image.size() == given[0].image.size() == changed.image.open().size
    both = np.isfinite(noises[0]) & np.isfinite(noises[1])
    # What 8 bits round away is at most half a level: 0.5 / 255 / 0.26 / sqrt(1 - 0.978).
    assert both.mean() > 0.2 and np.abs(noises[0][both] - noises[1][both]).max() < 0.08
    turned = NOISE.items(given[::-1], pool(given), "s")[::-1]
    for one, other in zip(NOISE.items(given, pool(given), "s"), turned, strict=True):
        assert one.image.read() == other.image.read() and one.image.fingerprint() == other.image.fingerprint()
    prints = {
        change.items(given[:1], pool(given), "s")[0].image.fingerprint()
        for change in (NOISE, Change("noise", 501), BLANK)
    }
    assert len(prints | {given[0].image.fingerprint()}) == 4, "answers about another picture would be taken"


def test_blank_is_grey_and_shuffled_never_the_own_content(tmp_path: Path) -> None:
    given = items(tmp_path, 7)
    (tmp_path / "twin.png").write_bytes((tmp_path / "0.png").read_bytes())
    given.append(dataclasses.replace(given[0], id="twin", image=ImageRef(tmp_path / "twin.png")))
    grey = BLANK.items(given, pool(given), "s")
    assert {tuple(colour) for one in grey for colour in np.asarray(one.image.open()).reshape(-1, 3)} == {
        (128, 128, 128)
    }
    assert [one.image.size() for one in grey] == [one.image.size() for one in given]
    for part in (given, given[:2]):
        other = SHUFFLED.items(part, pool(given), "s")
        assert all(one.image.read() != own.image.read() for one, own in zip(other, part, strict=True))
        assert [one.prompt for one in other] == [one.prompt for one in part]
    whole = SHUFFLED.items(given, pool(given), "s")
    assert len({one.image.fingerprint() for one in whole}) == 7, "each picture is shown in one other's place"
    assert [one.image for one in SHUFFLED.items(given[:2], pool(given), "s")] == [one.image for one in whole[:2]]
    twins = [given[0], given[-1]]
    with pytest.raises(BadInputError, match="all pictures of s are the same"):
        SHUFFLED.items(twins, pool(twins), "s")
    with pytest.raises(BadInputError, match="has none for the item 'x'"):
        NOISE.items([Item("x", "?", ImageRef(), "x")], [], "s")


def test_questions_without_a_picture_stay_as_they_are(tmp_path: Path) -> None:
    given = items(tmp_path)
    mixed = [given[0], Item("none", "What?", NO_IMAGE, "0"), *given[1:], Item("none 2", "Why?", NO_IMAGE, "1")]
    for change in (NOISE, BLANK, SHUFFLED):
        changed = change.items(mixed, pool(mixed), "s")
        assert [item.image == NO_IMAGE for item in changed] == [item.image == NO_IMAGE for item in mixed]
        prints = [item.image.fingerprint() for item in changed if item.image != NO_IMAGE]
        assert prints == [item.image.fingerprint() for item in change.items(given, pool(given), "s")]
    with pytest.raises(BadInputError, match="and s has none;"):
        NOISE.items(mixed[1:2], pool(mixed), "s")


def test_a_suite_with_some_pictures_is_asked_about_changed_ones(tmp_path: Path) -> None:
    """In HallusionBench, some questions are asked about a chart, an edited chart, and no chart."""
    rows = []
    for place in range(6):
        number, figure = divmod(place, 3)
        picture = {"filename": f"./VS/chart/{number}_{figure}.png"} if figure else {}
        about = {
            "category": "VS",
            "subcategory": "chart",
            "set_id": str(number),
            "question_id": "0",
            "figure_id": str(figure),
        }
        answer = {"question": f"Is it {number}?", "gt_answer": "1", "gt_answer_details": "It is."}
        rows.append(about | answer | {"visual_input": str(figure)} | picture)
        if figure:
            path = tmp_path / "data" / "hallusionbench" / "hallusion_bench" / picture["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            tiny_photograph(path, place)
    (tmp_path / "data" / "hallusionbench" / "HallusionBench.json").write_text(json.dumps(rows))
    with seeing() as server:
        server.say = lambda image, prompt: "Yes." if image else "No."
        plain = request(tmp_path, server, scoring={"hallusionbench": {"scoring": "match"}}, suites=["hallusionbench"])
        run_eval(plain)
        before = server.answered.total()
        for change in (NOISE, BLANK):
            _, record = run_eval(dataclasses.replace(plain, changes=[change]))
            assert record.pictures.without_picture == 2 and record.reliance.n == 6
            assert record.reliance.metrics["a_acc"].clean == 4 / 6
        assert server.answered.total() == before + 2 * 4, "the stored answers without a picture are taken"
        # A blind model: its answers about pictures are the same, and those without a picture are not compared with themselves.
        server.say = lambda image, prompt: "No."
        _, shuffled = run_eval(dataclasses.replace(plain, changes=[SHUFFLED]))
        assert shuffled.reliance.unchanged.value == 0


def test_a_model_that_looks_and_one_that_does_not(folder: Path, server: VisionServer) -> None:
    plain, *changed = run_eval(request(folder, server, changes=[NOISE, BLANK, SHUFFLED]))
    assert plain.metrics["accuracy"].value == 1 and "reliance" not in plain.written()
    for record in changed:
        reliance = record.reliance
        assert record.metrics["accuracy"].value == 0.5 and reliance.n == 40
        assert reliance.unchanged.written() == {"value": 0.5, "ci": [0.5, 0.5]}, (
            "of each picture's four questions two were answered with yes"
        )
        accuracy = reliance.metrics["accuracy"]
        assert (accuracy.clean, accuracy.changed, accuracy.gap.value) == (1, 0.5, -0.5)
        assert accuracy.gap.ci == [-0.5, -0.5] and accuracy.gap.p < 0.01
        # Precision and F1 are 0/0 where nothing is called a yes: no gap, rather than a number.
        assert "precision" not in reliance.metrics or reliance.metrics["precision"].changed >= 0
    assert [one.pictures.change for one in changed] == ["500", "blank", "shuffled"]
    assert changed[0].pictures.alpha_bar == pytest.approx(0.7446, abs=1e-3)

    server.say = lambda image, prompt: "Yes." if number_in(prompt) % 3 else "No."
    _, *blind = run_eval(request(folder, server, "blind", changes=[NOISE, BLANK, SHUFFLED]))
    for record in blind:
        assert record.reliance.unchanged.value == 1
        assert {one.gap.value for one in record.reliance.metrics.values()} == {0.0}
        assert {one.gap.p for one in record.reliance.metrics.values()} == {1.0}
    [table] = reliance_tables(blind)
    assert [row[:2] for row in table.rows[1:]] == [
        (name, "100.0 % (100.0–100.0)") for name in ("noise 500", "blank", "shuffled")
    ]
    assert "*" not in "".join("".join(row) for row in table.rows)


@pytest.mark.slow
def test_variants_whose_names_differ_in_punctuation_only_are_both_kept(folder: Path, server: VisionServer) -> None:
    command = f"eval --endpoint {server.url} --model seer --suite pope --data data --noise blank --limit 4".split()
    evals = folder / "results" / "seer" / "evals" / "pope@data"
    first, second = 'suffix "Yes or no?"', 'suffix "Yes or no!"'
    for end in ("?", "!", "!"):
        code, _, error = run_here([*command, "--set", f"pope.suffix=Yes or no{end}"], folder)
        assert code == 0, error
    for place in (evals, evals / "noise" / "blank"):
        variants = {path.name: read_json(path)["variant"] for path in place.glob("scores*.json")}
        assert variants.pop("scores-suffix-Yes-or-no-.json") == first
        [(name, variant)] = variants.items()
        assert variant == second and re.fullmatch(r"scores-suffix-Yes-or-no--[0-9a-f]{8}\.json", name)
        assert len(list(place.glob("items*.jsonl"))) == 2
    changed, reasons = changed_scores(find_run("seer", folder / "results"))
    assert {entry.record.variant for entry in changed} == {first, second} and not reasons


def test_nothing_is_asked_twice_and_a_limit_asks_a_part(folder: Path, server: VisionServer) -> None:
    plan = plan_eval(request(folder, server, changes=[NOISE, BLANK], limit=8))
    assert [(row["change"], row["to_generate"]) for row in plan] == [(None, 8), ("500", 8), ("blank", 8)]
    run_eval(request(folder, server, changes=[NOISE], limit=8))
    assert asked(server) == 16
    run_eval(request(folder, server, changes=[NOISE, BLANK], limit=8))
    assert asked(server) == 24
    first = run_eval(request(folder, server, changes=[NOISE, BLANK], limit=12))
    assert asked(server) == 36
    again = run_eval(request(folder, server, changes=[NOISE, BLANK], limit=12))
    assert asked(server) == 36
    assert [one.reliance for one in again[1:]] == [one.reliance for one in first[1:]]


def test_shuffled_takes_what_other_items_were_asked_about_the_same_picture(folder: Path, server: VisionServer) -> None:
    """One question about every picture: with the pictures exchanged, every answer is there already."""
    path = folder / "data" / "pope" / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()][::4]
    path.write_text("".join(json.dumps(row | {"text": "Is there a dog?"}) + "\n" for row in rows))
    server.say = lambda image, prompt: "Yes." if sum(image) % 2 else "No."
    [plain] = run_eval(request(folder, server))
    assert asked(server) == 10
    _, record = run_eval(request(folder, server, changes=[SHUFFLED]))
    assert asked(server) == 10
    assert record.n == 10 and record.serving.backend == "openai"
    assert record.metrics["yes_ratio"].value == plain.metrics["yes_ratio"].value, "the same answers, given to others"


def test_shards_with_changed_pictures_merge_to_the_same(folder: Path, server: VisionServer) -> None:
    whole = run_eval(request(folder, server, "whole", changes=[NOISE, SHUFFLED]))
    for index in (1, 2):
        run_eval(request(folder, server, changes=[NOISE, SHUFFLED], shard=Shard(index, 2)))
    merged = run_merge(request(folder, server, generate=False, changes=[NOISE, SHUFFLED]))
    assert [one.metrics for one in merged] == [one.metrics for one in whole]
    assert [one.reliance.metrics for one in merged[1:]] == [one.reliance.metrics for one in whole[1:]]
    with pytest.raises(BadInputError, match="no shards to merge") as none:
        run_merge(request(folder, server, generate=False, changes=[BLANK]))
    assert str(none.value.remedy).endswith("--noise blank --shard 1/N")


def test_changed_scores_stand_beside_the_plain_ones_and_in_no_board(folder: Path, server: VisionServer) -> None:
    run_eval(request(folder, server))

    def boards() -> list[Any]:
        return [
            (board.title, row.name, row.runs, {column: cell.value for column, cell in row.cells.items()})
            for board in collect(folder / "results")
            for row in board.rows
        ]

    alone = boards()
    run_eval(request(folder, server, changes=[NOISE, BLANK]))
    assert boards() == alone and len(alone) == 1, (
        "an answer about a changed picture is no answer of the suite, nor another seed"
    )
    run = find_run("seer", folder / "results")
    changed, reasons = changed_scores(run)
    assert not reasons and [one.record.pictures.change for one in changed] == ["500", "blank"]
    suite = folder / "results" / "seer" / "evals" / "pope@data"
    # The plain answers are others now: what was compared with the old ones is no comparison any more.
    server.say = lambda image, prompt: "No."
    run_eval(dataclasses.replace(request(folder, server), overwrite=True))
    changed, reasons = changed_scores(run)
    assert not changed and len(reasons) == 2 and "harness eval --run seer --suite pope --noise 500" in reasons[0]
    run_eval(request(folder, server, changes=[NOISE]))
    changed, reasons = changed_scores(run)
    assert [one.record.pictures.change for one in changed] == ["500"] and len(reasons) == 1
    record = read_json(suite / "noise" / "500" / "scores.json")
    for damage in ({"reliance": {}}, {"pictures": {"change": "500", "kind": "noise"}}, {"metrics": 3}):
        write_json(suite / "noise" / "500" / "scores.json", record | damage)
        changed, reasons = changed_scores(run)
        assert not changed and len(reasons) == 2 and "noise/500/scores.json" in " ".join(reasons)


@pytest.mark.slow
@pytest.mark.claims("eval --noise")
def test_as_a_user_types_it(folder: Path, server: VisionServer) -> None:
    ask = ["eval", "--endpoint", server.url, "--model", "seer", "--data", "data", "--suite", "pope"]
    done = harness(folder, *ask, "--noise", "0,500,blank,shuffled")
    assert (
        done.stdout.count("Image reliance: POPE, seer on data, n = 40") == 1
        and done.stdout.count("official script") == 1
    )
    for name in ("original", "noise 0", "noise 500", "blank", "shuffled"):
        assert re.search(rf"│ {name} +│", done.stdout), name
    assert "50.0, −50.0* (−50.0 to −50.0)" in done.stdout and "50.0 % (50.0–50.0)" in done.stdout
    assert "noise 500" not in harness(folder, "leaderboard").stdout
    harness(folder, "report", "-o", "r.html")
    page = (folder / "r.html").read_text()
    assert '<section id="reliance">' in page and "50.0, −50.0* (−50.0 to −50.0)" in page
    assert "Percentage of answers that stay exactly the same when the picture is changed" in page
    drawn = json.loads(harness(folder, "plot", "-o", "plots", "--format", "svg", "--json").stdout)
    assert {"unchanged-pope-data", "reliance-pope-data"} <= {one["name"] for one in drawn["plots"]}
    rows = json.loads(harness(folder, *ask, "--noise", "250", "--dry-run", "--json").stdout)
    assert [(row["change"], row["to_generate"]) for row in rows] == [(None, 0), ("250", 40)]
    for wrong, said in (
        (["--noise", "1000"], "step 1000 does not exist"),
        (["--noise", "500", "--repeat", "2"], "--repeat and --noise exclude each other"),
    ):
        code, _, error = run_here([*ask, *wrong], folder)
        assert code == 2 and said in " ".join(error.split())
