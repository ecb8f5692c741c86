"""A suite split over jobs and joined again, and asked several times: against a local endpoint, so that no engine is needed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import BadInputError, HarnessError
from harness.core.types import ImageRef, Item
from harness.evaluation.evaluate import run_eval
from harness.evaluation.plan import plan_eval
from harness.evaluation.request import EvalRequest
from harness.evaluation.responses import ResponseLog
from harness.evaluation.shards import Shard
from harness.evaluation.stored import run_merge, shard_backend
from harness.records.score_files import SuiteScores
from harness.remote.endpoint import KEY_VARIABLE
from harness.runs.targets import target_of_endpoint
from harness.serving.openai import OpenAIBackend
from tests.commands import harness, run_here
from tests.harness.serving.fake_vision import SECRET, VisionServer, seeing, small_pope


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_pope(tmp_path)


def request(folder: Path, server: VisionServer, results: str = "results", **more: Any) -> EvalRequest:
    model = server.model.partition("@")[0]
    settings = {"backend": {"endpoints": [server.url]}, **more.pop("settings", {})}
    return EvalRequest(
        [target_of_endpoint(model, folder / results)], ["pope"], str(folder / "data"), OpenAIBackend, settings, **more
    )


def test_shards_are_whole_images_and_together_everything() -> None:
    items = [Item(str(n), "", ImageRef(), f"image {n // 3}") for n in range(100)]
    parts = [Shard(index, 4).pick(items) for index in range(1, 5)]
    assert Counter(item.id for part in parts for item in part) == Counter(item.id for item in items)
    groups = [{item.group for item in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups)) and {len(one) for one in groups} <= {8, 9}
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/3"):
        with pytest.raises(BadInputError, match="--shard must be i/n"):
            Shard.parse(text)


def test_merged_shards_score_as_one_run_does(folder: Path) -> None:
    with seeing() as server:
        [whole] = run_eval(request(folder, server, "whole"))
        for index in (1, 2, 3):
            [about] = run_eval(request(folder, server, shard=Shard(index, 3)))
            assert (about.index, about.count, about.of) == (index, 3, 40)
        asked = server.answered.total()
        [merged] = run_merge(request(folder, server, generate=False))
        assert server.answered.total() == asked
    assert merged.metrics == whole.metrics and merged.n == merged.of == 40
    assert merged.checkpoint == whole.checkpoint and len(merged.serving.shards) == 3
    log = folder / "results" / "seer" / "evals" / "pope@data" / "responses.jsonl"
    before = log.read_bytes()
    with seeing() as server:
        assert run_merge(request(folder, server, generate=False))[0].metrics == whole.metrics
    assert log.read_bytes() == before, "merging twice is not merging once"


def test_shards_that_were_computed_in_several_data_types_are_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with seeing() as server:
        for index, dtype in ((1, "float32"), (2, "bfloat16")):
            [about] = run_eval(request(folder, server, shard=Shard(index, 2)))
            path = Path(about.folder) / "serving.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": dtype}))
        run_merge(request(folder, server, generate=False))
    assert "were computed in several data types: bfloat16 (2-of-2) and float32 (1-of-2)" in caplog.text


def test_questions_that_an_endpoint_refused_stay_in_the_merged_and_the_rejudged_scores(tmp_path: Path) -> None:
    folder = small_pope(tmp_path, forbidden=7)
    with seeing() as server:
        for index in (1, 2):
            run_eval(request(folder, server, shard=Shard(index, 2), max_unscored=0.1))
        stored = request(folder, server, generate=False)
        for again in (run_merge, run_eval):
            with pytest.raises(HarnessError, match=r"1 of 40 requests were refused; first: .*against the rules"):
                again(stored)
            [record] = again(dataclasses.replace(stored, max_unscored=0.03))
            assert isinstance(record, SuiteScores) and (record.n, record.of) == (39, 40)
            assert list(record.refused or {}) == ["random/7"]
            # Without the shards, only the scores of the merge know it.
            shutil.rmtree(folder / "results" / "seer" / "evals" / "pope@data" / "shards", ignore_errors=True)


def test_gaps_and_overlaps_are_refused_by_name(folder: Path) -> None:
    shards = folder / "results" / "seer" / "evals" / "pope@data" / "shards"
    with seeing() as server:
        joined = request(folder, server, generate=False)
        with pytest.raises(BadInputError, match="no shards to merge") as none:
            run_merge(joined)
        assert none.value.remedy == f"harness eval --run seer --suite pope --data {folder / 'data'} --shard 1/N"
        for index in (1, 3):
            run_eval(request(folder, server, shard=Shard(index, 3)))
        with pytest.raises(BadInputError, match=r"in no shard: shard 2/3: 12 items \(random/4, random/5") as gap:
            run_merge(joined)
        assert str(gap.value.remedy).endswith("--shard 2/3")
        run_eval(request(folder, server, shard=Shard(2, 3)))
        lines = (shards / "2-of-3" / "responses.jsonl").read_text().splitlines(keepends=True)
        (shards / "2-of-3" / "responses.jsonl").write_text("".join(lines[:-2]))
        with pytest.raises(BadInputError, match="shard 2/3: 2 items"):
            run_merge(joined)
        (shards / "2-of-3" / "responses.jsonl").write_text("".join(lines))
        shutil.copytree(shards / "2-of-3", shards / "copy")
        with pytest.raises(BadInputError, match=r"12 items are in several shards \(2-of-3, copy\): random/4"):
            run_merge(joined)
        shutil.rmtree(shards / "copy")
        run_eval(request(folder, server, shard=Shard(1, 2)))
        with pytest.raises(BadInputError, match="differ in count: 1-of-2: 2; 1-of-3, 2-of-3, 3-of-3: 3"):
            run_merge(joined)
        shutil.rmtree(shards / "1-of-2")
        with ResponseLog(shards / "3-of-3"), pytest.raises(HarnessError, match="another process is writing"):
            run_merge(joined)
        assert run_merge(joined)[0].n == 40


def test_shards_of_another_checkpoint_or_sampling_are_refused(folder: Path) -> None:
    shards = folder / "results" / "seer" / "evals" / "pope@data" / "shards"
    with seeing() as server, seeing("seer@2026-06-01") as other:
        run_eval(request(folder, server, shard=Shard(1, 2)))
        run_eval(request(folder, other, shard=Shard(2, 2)))
        with pytest.raises(BadInputError, match=r"differ in checkpoint: 1-of-2: .*; 2-of-2: "):
            run_merge(request(folder, server, generate=False))
        shutil.rmtree(shards / "2-of-2")
        run_eval(request(folder, server, shard=Shard(2, 2), settings={"sampling": {"temperature": 0.5}}))
        with pytest.raises(BadInputError, match="differ in sampling"):
            run_merge(request(folder, server, generate=False))
        about = json.loads((shards / "1-of-2" / "shard.json").read_text())
        shutil.rmtree(shards / "2-of-2")
        (shards / "1-of-2" / "shard.json").write_text(json.dumps(about | {"checkpoint": "f" * 64}))
        with pytest.raises(BadInputError, match=r"answered by another checkpoint \(ffffffffffff"):
            run_merge(request(folder, server, generate=False))


def test_shards_whose_model_was_edited_in_between_are_refused(folder: Path) -> None:
    answers = folder / "results" / "seer" / "evals" / "pope@data"

    def computed(shard: str, files: dict[str, str] | None) -> None:
        """Let a shard's record say this of the settings of its model, as the record of a model's folder does."""
        path = answers / "shards" / shard / "serving.json"
        record = {key: value for key, value in json.loads(path.read_text()).items() if key != "computed_with"}
        path.write_text(json.dumps(record | ({"computed_with": {"f" * 64: files}} if files else {})))

    with seeing() as server:
        for index in (1, 2):
            run_eval(request(folder, server, shard=Shard(index, 2)))
        config, other = {"config.json": "a" * 64}, {"config.json": "b" * 64, "generation_config.json": "c" * 64}
        computed("1-of-2", config)
        computed("2-of-2", other)
        changed = r"config\.json and generation_config\.json of the model changed between the shards 1-of-2 and 2-of-2"
        with pytest.raises(BadInputError, match=changed) as caught:
            run_merge(request(folder, server, generate=False))
        assert str(caught.value.remedy).endswith("--shard I/N")
        assert not (answers / "responses.jsonl").exists()
        computed("1-of-2", None)  # as versions wrote it that did not record it
        [merged] = run_merge(request(folder, server, generate=False))
        assert merged.n == 40 and json.loads((answers / "serving.json").read_text())["computed_with"]["f" * 64] == other


def test_settings_of_the_first_command_that_are_missing_are_named(folder: Path) -> None:
    """Not the data are at fault, and nothing needs to be answered again."""
    short: dict[str, Any] = {"sampling": {"max_new_tokens": 9}}
    with seeing() as server:
        for index in (1, 2):
            run_eval(request(folder, server, shard=Shard(index, 2), settings=dict(short)))
        with pytest.raises(BadInputError, match=r"answered with sampling.max_new_tokens=9, not \d+") as caught:
            run_merge(request(folder, server, generate=False))
        assert str(caught.value.remedy).endswith("--set sampling.max_new_tokens=9")
        [merged] = run_merge(request(folder, server, generate=False, settings=dict(short)))
        assert merged.n == 40
        with pytest.raises(BadInputError, match=r"generated with sampling.max_new_tokens=9, not \d+") as caught:
            run_eval(request(folder, server, generate=False))
        assert str(caught.value.remedy).endswith("--set sampling.max_new_tokens=9")
        [again] = run_eval(request(folder, server, generate=False, settings=dict(short)))
        assert isinstance(again, SuiteScores) and again.metrics == merged.metrics

        answers = folder / "results" / "seer" / "evals" / "pope@data"
        shard = answers / "shards" / "1-of-2" / "shard.json"
        for key in ("backend", "template"):
            about = json.loads(shard.read_text())
            for path in answers.glob("shards/*/shard.json"):
                path.write_text(json.dumps(json.loads(path.read_text()) | {key: "another"}))
            with pytest.raises(BadInputError, match=rf"with another {key} \(another\)"):
                run_merge(request(folder, server, generate=False, settings=dict(short)))
            for path in answers.glob("shards/*/shard.json"):
                path.write_text(json.dumps(json.loads(path.read_text()) | {key: about[key]}))
        shutil.rmtree(answers / "shards" / "1-of-2")
        with pytest.raises(BadInputError, match="in no shard: shard 1/2") as caught:
            run_merge(request(folder, server, generate=False, settings=dict(short)))
        assert str(caught.value.remedy).endswith("--set sampling.max_new_tokens=9 --shard 1/2")


@pytest.mark.slow
def test_shards_as_a_person_types_them(folder: Path) -> None:
    with seeing() as server:
        command = ["eval", "--endpoint", server.url, "--model", "seer", "--suite", "pope", "--data", "data"]
        done = harness(folder, *command, "--shard", "1/2", "--limit", "20")
        assert "shard 1 of 2, 12 items" in done.stdout and "harness merge seer --suite pope" in done.stdout
        harness(folder, *command, "--shard", "2/2", "--limit", "20")
        assert "nothing was scored" in harness(folder, "leaderboard", code=2).stderr
        shown = harness(folder, "merge", "seer", "--suite", "pope", "--data", "data").stdout
    assert "n = 20 of 40" in shown and "--limit 20" in shown
    assert "i from 1 to n" in harness(folder, *command, "--shard", "3/2", code=2).stderr


def test_repeats_tell_the_spread_and_the_first_is_the_score(folder: Path) -> None:
    with seeing("moody") as server:
        [alone] = run_eval(request(folder, server))
        assert isinstance(alone, SuiteScores) and alone.repeats is None
        [record] = run_eval(request(folder, server, repeat=4))
        assert server.answered.total() == 40 * 4 + 2, "an answer that is there was asked for again"  # and two probes
    assert record.metrics == alone.metrics
    evals = folder / "results" / "moody" / "evals" / "pope@data"
    texts = []
    for path in (evals, *(evals / "repeats" / str(number) for number in (2, 3, 4))):
        rows = [json.loads(line) for line in (path / "responses.jsonl").read_text().splitlines()]
        texts.append({row["item"]: row["text"] for row in rows})
        assert len(rows) == len(texts[-1]) == 40
    shares = [sum(text.startswith("Yes") for text in own.values()) / 40 for own in texts]
    spread = record.repeats.metrics["random.yes_ratio"]
    mean = sum(shares) / 4
    assert spread.mean == pytest.approx(mean) and (spread.min, spread.max) == (min(shares), max(shares))
    assert spread.sd == pytest.approx((sum((one - mean) ** 2 for one in shares) / 3) ** 0.5)
    assert spread.sd > 0 and record.metrics["random.yes_ratio"].value == pytest.approx(shares[0])
    differ = sum(len({own[name] for own in texts}) > 1 for name in texts[0])
    assert record.repeats.differ == pytest.approx(differ / 40) and record.repeats.k == 4
    assert json.loads((evals / "scores.json").read_text())["repeats"] == record.repeats.written()


def test_answers_keep_the_record_of_the_engine_that_gave_them(folder: Path) -> None:
    answers = folder / "results" / "seer" / "evals" / "pope@data"
    with seeing() as server, seeing() as later:
        run_eval(request(folder, server))
        before = (answers / "serving.json").read_bytes()
        assert "took" in json.loads(before)
        [scores] = run_eval(request(folder, later, repeat=2))
        assert isinstance(scores, SuiteScores) and scores.written()["serving"]["settings"]["endpoints"] == [server.url]
        second = json.loads((answers / "repeats" / "2" / "serving.json").read_text())
        assert second["settings"]["endpoints"] == [later.url]
        assert (answers / "serving.json").read_bytes() == before
        run_eval(request(folder, later, overwrite=True))
        assert json.loads((answers / "serving.json").read_text())["settings"]["endpoints"] == [later.url]
        (
            answers / "serving.json"
        ).unlink()  # of an older version, or lost: whatever engine comes next is better than none
        run_eval(request(folder, server, repeat=3))
    assert json.loads((answers / "serving.json").read_text())["settings"]["endpoints"] == [server.url]


def test_what_a_later_repeat_could_not_ask_stays_in_the_scores(tmp_path: Path) -> None:
    """Also when the stored answers are scored again, when nothing is asked."""
    folder = small_pope(tmp_path, forbidden=7)
    with seeing() as server:
        [asked] = run_eval(request(folder, server, repeat=2, max_unscored=0.03))
        [again] = run_eval(request(folder, server, repeat=2, max_unscored=0.03, generate=False))
    for record in (asked, again):
        assert isinstance(record, SuiteScores) and record.repeats is not None
        assert record.repeats.refused == {"2": record.refused} and list(record.refused or {}) == ["random/7"]


def test_repeats_of_what_does_not_vary_have_no_spread(folder: Path) -> None:
    with seeing() as server:
        [record] = run_eval(request(folder, server, repeat=2, limit=12))
        assert server.answered.total() == 1 + 24
    assert record.repeats.differ == 0 and record.repeats.items == 12
    assert all(one.sd == 0 for one in record.repeats.metrics.values())
    with seeing() as server, pytest.raises(BadInputError, match="exclude each other"):
        run_eval(request(folder, server, repeat=2, shard=Shard(1, 2)))


@pytest.mark.slow
def test_the_spread_is_shown(folder: Path) -> None:
    with seeing("moody") as server:
        command = ["eval", "--endpoint", server.url, "--model", "moody", "--suite", "pope", "--data", "data"]
        shown = harness(folder, *command, "--repeat", "3").stdout
    assert "of 3 repeats" in shown and "±" in shown and "differ between the 3 repeats" in shown


def test_a_plan_has_items_images_tokens_and_time(folder: Path) -> None:
    with seeing() as server:
        [before] = plan_eval(request(folder, server, limit=12))
        assert (before["items"], before["of"], before["images"], before["to_generate"]) == (12, 40, 3, 12)
        assert before["seconds"] is None and before["new_tokens"] is None and before["new_tokens_at_most"] == 12 * 64
        assert not server.answered, "a plan asked the endpoint"
        [record] = run_eval(request(folder, server, limit=12))
        assert record.sample == {"limit": 12, "seed": 0} and (record.n, record.of) == (12, 40)
        [after] = plan_eval(request(folder, server))
        [twice] = plan_eval(request(folder, server, repeat=2))
        [part] = plan_eval(request(folder, server, shard=Shard(1, 4)))
    took = record.serving.took
    assert took["answers"] == 12 and took["completion_tokens"] == 12 * 7
    assert (after["answered"], after["to_generate"], after["new_tokens"]) == (12, 28, 28 * 7)
    assert after["seconds"] == pytest.approx(28 * took["seconds"] / 12)
    assert twice["to_generate"] == 28 + 40 and (part["items"], part["images"], part["answered"]) == (12, 3, 0)


def test_a_plan_takes_the_time_of_an_answer_from_answers_of_its_suite(folder: Path) -> None:
    """Another suite's answers can be a hundred times as long, so of these only the time of a token counts."""
    other = folder / "data" / "pope-aokvqa"
    other.mkdir()
    (other / "aokvqa_pope_seem_random.json").write_bytes(
        (folder / "data" / "pope" / "coco_pope_random.json").read_bytes()
    )
    evals = folder / "results" / "seer" / "evals"

    def took(suite: str, answers: int, completion_tokens: int | None, seconds: float) -> None:
        path = evals / f"{suite}@data" / "serving.json"
        spent = {"answers": answers, "completion_tokens": completion_tokens, "seconds": seconds}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"took": spent}))

    def seconds(suite: str) -> float | None:
        [row] = plan_eval(dataclasses.replace(request(folder, server), suites=[suite]))
        assert row["to_generate"] > 0
        return row["seconds"]

    with seeing() as server:
        run_eval(request(folder, server, limit=12))
        took("pope", 3000, 3000, 30.0)
        assert seconds("pope") == pytest.approx(28 * 0.01) and seconds("pope-aokvqa") is None
        run_eval(dataclasses.replace(request(folder, server, limit=12), suites=["pope-aokvqa"]))
        took("pope-aokvqa", 300, 30_000, 300.0)
        assert seconds("pope") == pytest.approx(28 * 0.01) and seconds("pope-aokvqa") == pytest.approx(28 * 1.0)
        # Asked in one command, the suites share a record, whose time per answer is that of neither. Each of the 28 answers has 7 tokens.
        for suite in ("pope", "pope-aokvqa"):
            took(suite, 3300, 33_000, 330.0)
        assert seconds("pope") == seconds("pope-aokvqa") == pytest.approx(28 * 7 * 0.01)
        took("pope", 3000, 3000, 60.0)
        (evals / "pope-aokvqa@data" / "serving.json").unlink()
        assert seconds("pope-aokvqa") == pytest.approx(28 * 7 * 0.02), "the tokens of this suite, at another's rate"
        took("pope", 3000, None, 60.0)
        assert seconds("pope-aokvqa") is None


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_is_a_number_of_items(folder: Path, limit: int) -> None:
    with seeing() as server, pytest.raises(BadInputError, match="--limit must be at least 1"):
        run_eval(request(folder, server, limit=limit))


def test_a_sample_is_whole_images_and_a_larger_one_holds_it(folder: Path) -> None:
    from harness.evaluation.suites import open_suite

    small, large, whole = (open_suite("pope", folder / "data", {}, limit) for limit in (10, 20, None))
    assert [len(one.items) for one in (small, large, whole)] == [12, 20, 40]
    assert small.sampled and large.sampled and not whole.sampled and small.whole == 40
    assert {item.id for item in small.items} < {item.id for item in large.items}
    for suite in (small, large):
        sizes = Counter(item.group for item in suite.items)
        assert set(sizes.values()) == {4}
    again = open_suite("pope", folder / "data", {}, 10)
    assert [item.id for item in again.items] == [item.id for item in small.items]


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("shard.json", {"refused": 1}, "refused is 1"),
        ("shard.json", {"count": "2"}, "count is '2'"),
        ("shard.json", {"index": 0}, "index is 0"),
        ("serving.json", {"backend": []}, "backend is []"),
        ("serving.json", {"settings": None}, "settings is None"),
        ("responses.jsonl", {"request": [None]}, "request is [None]"),
        ("responses.jsonl", {"text": 5}, "text"),
    ],
)
def test_a_damaged_shard_is_named(file: str, change: dict[str, Any], said: str, folder: Path) -> None:
    with seeing() as server:
        for index in (1, 2):
            run_eval(request(folder, server, shard=Shard(index, 2)))
        path = folder / "results" / "seer" / "evals" / "pope@data" / "shards" / "2-of-2" / file
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        lines[0] = json.dumps(json.loads(lines[0]) | change)
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(BadInputError) as caught:
            run_merge(request(folder, server, generate=False))
            # The serving record is only looked at by the command, which asks the shards for their backend.
            shard_backend(target_of_endpoint("seer", folder / "results"), ["pope"], str(folder / "data"))
    assert said in caught.value.problem and str(path) in (caught.value.where or "")


def test_one_run_is_merged_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        target_of_endpoint(name, tmp_path / "results").begin()
    ended, _, said = run_here(["merge", "a,b", "--suite", "pope"])
    assert ended == 2 and "this command takes one run, not 2: a, b" in said and "harness merge RUN --suite pope" in said
