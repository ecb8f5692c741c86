"""`harness balance`: margins on pairs that were not trained on, for every method, after each stage; against an independent computation."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligners.preferences import read_preferences
from aligners.preferences.options import DataOptions
from aligners.training.checks.plain_pass import own_inputs
from aligners.training.held_out import SEED, held_out_pairs, margins
from aligners.training.job import AlignJob
from harness.alignment.align import AlignRequest, run_align
from harness.checkpoints.balance import BalanceRequest, measure_balance
from harness.checkpoints.trained_pairs import trained_on
from harness.cli import app
from harness.cli.errors import run as command
from harness.core.config import TrainSettings
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.models import load_model, load_processor, with_adapters
from harness.records.manifest_file import AlignConfig
from harness.reports.figures import Lines, figures
from harness.runs.folders import Run, open_run
from tests.commands import run_here
from tests.scored_runs import make_run
from tests.tiny import tiny_llava, tiny_photograph

PAIR = {"prompt": "what is this", "chosen": "a red cat", "rejected": "a blue dog"}


def pairs(folder: Path, name: str, numbers: range) -> Path:
    """A picture for each number, and two pairs about it."""
    rows = []
    for number in numbers:
        tiny_photograph(folder / f"{number}.png", number)
        for turn, question in enumerate(("what is this", "what is on the table")):
            rows.append(PAIR | {"id": f"{number}-{turn}", "image": f"{number}.png", "prompt": question})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, pairs to train on, pairs that are held out."""
    folder = tmp_path_factory.mktemp("balance")
    tiny_llava(folder / "base")
    pairs(folder, "train", range(4))
    pairs(folder, "held", range(100, 104))
    pairs(folder, "mixed", range(2, 6))
    return folder


def with_query(folder: Path, name: str) -> Path:
    """The pairs of a file with the prompt in a column called `query`."""
    path = folder / f"{name}-query.jsonl"
    path.write_text((folder / f"{name}.jsonl").read_text().replace('"prompt"', '"query"'))
    return path


@pytest.mark.parametrize("held", ["held", "held-query", "train-query", "pocket:1"])
def test_columns_are_the_trained_datas(held: str, folder: Path, tmp_path: Path) -> None:
    """Held-out pairs that have no such column are read by their own names, and a world's pairs always are."""
    with_query(folder, "held")
    world = held == "pocket:1"
    file = str(folder / f"{'held' if world else held}.jsonl")
    job = AlignJob(
        "model",
        str(with_query(folder, "train")),
        tmp_path,
        TrainSettings.model_validate({"balance": {"data": held if world else file}}),
        tmp_path / "cache",
        data_options=DataOptions({"prompt": "query"}),
        held_out=file if world else None,
    )
    pairs = held_out_pairs(job, [])
    assert pairs is not None and len(pairs.examples) == 8
    assert {example.prompt for example in pairs.examples} == {"what is this", "what is on the table"}
    lacking = replace(job, data_options=DataOptions({"prompt": "query", "image": "picture"}))
    if held == "held-query":
        with pytest.raises(BadInputError, match="there is no column 'picture'"):
            held_out_pairs(lacking, [])


def test_a_bad_held_out_record_is_skipped_where_bad_records_are(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "bad.jsonl"
    rows = [PAIR | {"id": "good", "image": str(folder / "100.png")}, {"id": "bad", "image": "none.png"} | PAIR]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = TrainSettings.model_validate({"balance": {"data": str(file)}})
    options = DataOptions(image_root=folder)
    job = AlignJob("model", "data", tmp_path, train, tmp_path / "cache", on_error="skip", data_options=options)
    pairs = held_out_pairs(job, [])
    assert pairs is not None and [example.id for example in pairs.examples] == ["good"]
    assert "held-out records that were skipped: 1" in caplog.text and "none.png" in caplog.text
    with pytest.raises(BadInputError, match=r"none\.png"):
        held_out_pairs(replace(job, on_error="fail"), [])


def aligned(folder: Path, method: str, name: str, **of_method: Any) -> Run:
    train = {
        "learning_rate": 0.02,
        "epochs": 1,
        "batch_size": 4,
        "micro_batch_size": 4,
        "max_length": 256,
        "keep_stages": True,
    }
    settings = {"train": train | of_method.pop("train", {}), "method": of_method}
    data = str(folder / "train.jsonl")
    return run_align(
        AlignRequest(method, str(folder / "base"), folder / "results", data=data, name=name, settings=settings)
    )


@pytest.fixture(scope="module")
def staged(folder: Path) -> Run:
    return aligned(folder, "mfpo", "staged", stages={"count": 2}, images={"corruption": "whole-noise"})


@pytest.fixture(scope="module")
def text_only(folder: Path) -> Run:
    return aligned(folder, "dpo", "text-only", beta=0.2)


def by_hand(folder: Path, run: Run, beta: float) -> np.ndarray:
    """Rewards of the held-out pairs [pairs, 2] (chosen, rejected), by the processor's own template, one conversation at a time."""
    from PIL import Image

    processor = load_processor(str(run.checkpoint))
    model = with_adapters(load_model(str(folder / "base"), "float32").double(), {"a": run.checkpoint})
    rewards = []
    for row in map(json.loads, (folder / "held.jsonl").read_text().splitlines()):
        picture = Image.open(folder / row["image"]).convert("RGB")
        values = []
        for answer in (row["chosen"], row["rejected"]):
            inputs = own_inputs(processor, row["prompt"], answer, picture)
            ids = inputs["input_ids"][0]
            given = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
            # Everything behind the question is the answer and its end; the question's tokens are the same under both models.
            start = len(own_inputs(processor, row["prompt"], "", picture)["input_ids"][0]) - 1
            sums = []
            for adapted in (True, False):
                if adapted:
                    logits = model(**given).logits
                else:
                    with model.disable_adapter():
                        logits = model(**given).logits
                logp = logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
                sums.append(float(logp[start - 1 :].sum()))
            values.append(beta * (sums[0] - sums[1]))
        rewards.append(values)
    return np.array(rewards)


@pytest.mark.slow
def test_margins_are_those_of_the_models_own_forward_pass_also_for_a_method_without_images(
    folder: Path, text_only: Run
) -> None:
    record = measure_balance(BalanceRequest(text_only, str(folder / "held.jsonl")))
    expected = by_hand(folder, text_only, 0.2)
    [end] = record.measured
    assert record.n == 8 and record.beta == 0.2 and end.after == "end" and end.steps == 2
    assert end.rewards["chosen"] == pytest.approx(expected[:, 0].mean(), abs=1e-4)
    assert end.rewards["rejected"] == pytest.approx(expected[:, 1].mean(), abs=1e-4)
    assert end.text.value == pytest.approx((expected[:, 0] - expected[:, 1]).mean(), abs=1e-4)
    assert end.text.value > 0.01 and end.text_above_0.value == 1, "nothing was learned, so nothing is tested"
    # What was never trained is measured all the same, on pictures that whole-image noise made.
    assert record.images["whole-image"] == 8 and abs(end.image.value) < end.text.value
    assert read_json(text_only.path / "balance" / "held.jsonl.json") == json.loads(json.dumps(record.written()))


@pytest.mark.slow
def test_each_kept_stage_and_the_end(folder: Path, staged: Run, capsys: pytest.CaptureFixture[str]) -> None:
    done = command(app, ["balance", str(staged.path), "--data", str(folder / "held.jsonl"), "--json"])
    [record] = json.loads(capsys.readouterr().out)
    assert done == 0 and [(one["after"], one["steps"]) for one in record["measured"]] == [("easy", 1), ("end", 2)]
    first, last = record["measured"]
    assert first["rewards"] != last["rewards"]
    # A stage's checkpoint is a run of its own, and is measured as such.
    stage = measure_balance(BalanceRequest(open_run(staged.path / "stages" / "1-easy"), str(folder / "held.jsonl")))
    assert stage.measured[-1].text.value == pytest.approx(first["text"]["value"], abs=1e-5)
    assert command(app, ["balance", str(staged.path), "--data", str(folder / "held.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert "Modality balance" in shown and "easy" in shown and "margin" in shown


@pytest.mark.slow
def test_what_was_trained_on_is_left_out_and_what_cannot_be_measured_is_said(
    folder: Path, text_only: Run, tmp_path: Path
) -> None:
    record = measure_balance(BalanceRequest(text_only, str(folder / "mixed.jsonl")))
    assert (record.n, record.left_out) == (4, 4)
    with pytest.raises(BadInputError, match="all 8 pairs are trained on"):
        measure_balance(BalanceRequest(text_only, str(folder / "train.jsonl")))
    # Other pairs of the same file name do not replace the record; the same pairs do.
    (folder / "more").mkdir()
    more = str(pairs(folder / "more", "mixed", range(200, 202)))
    for data in (more, str(folder / "mixed.jsonl"), more):
        measure_balance(BalanceRequest(text_only, data))
    records = {path.name: read_json(path) for path in (text_only.path / "balance").glob("mixed*")}
    plain = records.pop("mixed.jsonl.json")
    [(name, other)] = records.items()
    assert (plain["data"], plain["n"], other["data"], other["n"]) == (str(folder / "mixed.jsonl"), 4, more, 4)
    assert re.fullmatch(r"mixed\.jsonl-[0-9a-f]{8}\.json", name)
    copy = open_run(Path(shutil.copytree(text_only.path, tmp_path / "copy")))
    assert copy.manifest is not None
    whole = copy.manifest.written()
    assert whole["summary"]["data"]["location"] == str((folder / "train.jsonl").resolve())
    for manifest, said in (
        (whole | {"kind": "base"}, "is not an aligned run"),
        (whole | {"summary": {}}, "no summary.stages"),
        (
            whole
            | {
                "config": whole["config"] | {"data": str(tmp_path / "gone.jsonl")},
                "summary": whole["summary"]
                | {"data": whole["summary"]["data"] | {"location": str(tmp_path / "gone.jsonl")}},
            },
            "so it is unknown which ones are held out",
        ),
        (whole | {"base": whole["base"] | {"fingerprint": "0" * 64}}, "weights"),
    ):
        write_json(copy.path / "manifest.json", manifest)
        with pytest.raises(BadInputError, match=said):
            measure_balance(BalanceRequest(open_run(copy.path), str(folder / "held.jsonl")))


def trained_in(folder: Path, data: str, **recorded: Any) -> tuple[Run, AlignConfig]:
    """A run in `folder/results`, as a training with relative paths leaves it: on `train.jsonl` in the folder, pictures in `pictures`."""
    (folder / "pictures").mkdir(parents=True)
    rows = [json.loads(line) for line in pairs(folder / "pictures", "train", range(3)).read_text().splitlines()]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = DataOptions({}, folder / "pictures")
    fingerprint = read_preferences(str(folder / "train.jsonl"), options=options).fingerprint
    config = AlignConfig(method="dpo", model="m", data=data, image_root="pictures", settings={"train": {"seed": 0}})
    path = make_run(folder / "results", "run", ["A dog."], "pictures", method="dpo", model="m")
    manifest = json.loads((path / "manifest.json").read_text())
    summary = {"data": {"fingerprint": fingerprint, "examples": 6, **recorded}}
    write_json(path / "manifest.json", manifest | {"summary": summary})
    return open_run(path), config


@pytest.mark.parametrize("data", ["train.jsonl", "plain:train.jsonl"])
def test_the_trained_pairs_are_those_of_the_training_wherever_the_command_runs(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, other = tmp_path / "made here", tmp_path / "elsewhere"
    recorded = {"location": str(made / "train.jsonl"), "image_root": str(made / "pictures")}
    run, config = trained_in(made, data)
    other.mkdir()
    monkeypatch.chdir(made)
    contents = trained_on(run, config)
    assert len(contents) == 6
    monkeypatch.chdir(other)
    assert trained_on(run, config) == contents, "a run without recorded places: found around it"
    (other / "pictures").mkdir()
    pairs(other, "train", range(7, 9))
    assert trained_on(run, config) == contents, "another file of this name is not taken for it"
    moved, config = trained_in(tmp_path / "apart", data, **recorded)
    (tmp_path / "apart/train.jsonl").write_text("")
    assert trained_on(moved, config) == contents, "where the manifest says"


def test_pairs_that_changed_since_the_training_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, config = trained_in(tmp_path, "train.jsonl", location=str(tmp_path / "train.jsonl"))
    text = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text.replace("a red cat", "a green cat"))
    with pytest.raises(BadInputError, match="these are not the pairs that the run was trained on") as caught:
        trained_on(run, config)
    assert caught.value.where == str(tmp_path / "train.jsonl") and "align again" in str(caught.value.remedy)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(BadInputError, match="cannot be read, so it is unknown which ones are held out") as caught:
        trained_on(run, config)
    assert "run this in the folder that the run was made in" in str(caught.value.remedy)


@pytest.mark.slow
@pytest.mark.claims("train.balance.data", "train.balance.pairs", "train.balance.every")
def test_a_training_measures_over_its_steps_and_learns_the_same(folder: Path, text_only: Run) -> None:
    held = str(folder / "held.jsonl")

    def log(run: Run) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (run.path / "train_log.jsonl").read_text().splitlines()]

    method_settings: dict[str, Any] = {"stages": {"count": 2}, "images": {"corruption": "whole-noise"}}
    train = {"epochs": 2, "balance": {"data": held, "every": 1}}
    watched = aligned(folder, "mfpo", "watched", train=train, **method_settings)
    plain = aligned(folder, "mfpo", "plain", train={"epochs": 2}, **method_settings)
    weights = [(run.checkpoint / "adapter_model.safetensors").read_bytes() for run in (watched, plain)]
    assert weights[0] == weights[1], "measuring changed the training"
    rows = log(watched)
    assert [set(row) - set(other) for row, other in zip(rows, log(plain), strict=True)] == [
        {"held_out_text", "held_out_image"}
    ] * len(rows)
    assert len({row["held_out_text"] for row in rows}) == len(rows) == 4
    # The same as `harness balance` measures afterwards on the checkpoints, by the model's own forward pass.
    assert watched.manifest is not None and watched.manifest.summary is not None
    balance = watched.manifest.summary["balance"]
    later = measure_balance(BalanceRequest(watched, held, limit=64, seed=SEED)).written()
    assert (balance["n"], balance["fingerprint"], balance["images"]) == (
        later["n"],
        later["fingerprint"],
        later["images"],
    )
    assert [one["after"] for one in balance["measured"]] == ["easy", "end"]
    for earlier, other in zip(balance["measured"], later["measured"], strict=True):
        assert earlier["steps"] == other["steps"]
        for name in ("text", "image"):
            assert earlier[name]["value"] == pytest.approx(other[name]["value"], abs=1e-4)
    assert rows[-1]["held_out_image"] == pytest.approx(balance["measured"][-1]["image"]["value"], abs=1e-6)
    # A method without image terms has both margins, too; only every third step and each stage's last one are measured.
    few = {"epochs": 4, "batch_size": 2, "balance": {"data": held, "every": 3, "pairs": 5}}
    text = aligned(folder, "dpo", "watched-text", train=few, beta=0.2)
    assert [place for place, row in enumerate(log(text), 1) if "held_out_image" in row] == [3, 6, 9, 12, 15, 16]
    assert text.manifest is not None and text.manifest.summary is not None
    assert text.manifest.summary["balance"]["n"] == 5 and log(text)[-1]["held_out_image"] != 0
    [drawn] = [figure for figure in figures([], [], [watched]) if figure.name == "balance-watched"]
    assert isinstance(drawn.content, Lines) and list(drawn.content.lines) == ["text", "image"]
    assert drawn.content.lines["image"] == [
        (0, 0),
        *((step, row["held_out_image"]) for step, row in enumerate(rows, 1)),
    ]
    assert not [figure for figure in figures([], [], [text_only]) if figure.name.startswith("balance")]
    with pytest.raises(BadInputError, match=r"all 8 pairs are trained on.*train\.balance\.data="):
        aligned(folder, "dpo", "none-held", train={"balance": {"data": str(folder / "train.jsonl")}})


def test_the_leaderboard_shows_margins_if_they_are_asked_for(tmp_path: Path) -> None:
    results = tmp_path / "results"
    both_above = {
        "after": "end",
        "steps": 12,
        **margins(np.array([[1.0, 0.0, 0.5]] * 3 + [[2.0, 0.0, 1.0]]), list("abcd")).written(),
    }
    none = {"after": "end", "steps": 12, **margins(np.array([[1.0, 0.0, 1.5], [2.0, 0.5, 0.0]]), list("ab")).written()}
    about = {"data": "held", "n": 4, "left_out": 0, "seed": 0, "limit": 64, "fingerprint": "d", "images": {}}
    make_run(results, "start", ["A dog."] * 4, "pictures", method="base", model="m")
    for name, measured in (("first", both_above), ("second", none)):
        folder = make_run(results, name, ["A dog."] * 4, "pictures", method="dpo", model="m")
        manifest = read_json(folder / "manifest.json") | {
            "checkpoint": {"kind": "adapter", "fingerprint": name},
            "summary": {"balance": about | {"measured": [none, measured]}},
        }
        write_json(folder / "manifest.json", manifest)
    # A later measurement on the same pairs takes the place of the training's.
    write_json(
        results / "second" / "balance" / "held.json",
        about
        | {
            "run": "second",
            "n": 2,
            "checkpoint": "second",
            "measured": [both_above | {"text": {"value": 7, "ci": None}}],
        },
    )
    code, out, said = run_here(["leaderboard", "--metric", "chair_s,balance", "--json"], tmp_path)
    assert code == 0, said
    [board] = json.loads(out)
    cells = {row["checkpoint"]: row["metrics"] for row in board["rows"]}
    keys = ["balance[held].text", "balance[held].image", "balance[held].ratio"]
    assert [key for key in cells["first"] if key.startswith("balance")] == keys
    assert [cells["first"][key]["value"] for key in keys] == [1.25, 0.625, 0.5]
    assert cells["first"][keys[1]]["ci"][0] > 0 and cells["first"][keys[0]]["n"] == 4
    assert cells["second"][keys[0]]["value"] == 7 and cells["second"][keys[0]]["n"] == 2
    assert not any(cell["best"] for cell in cells["first"].values() if cell["n"] == 4 and cell["value"] == 0.625)
    code, out, _ = run_here(["leaderboard", "--metric", "balance.image", "--markdown"], tmp_path)
    assert code == 0 and "0.625" in out and "CHAIR" not in out
    code, out, _ = run_here(["leaderboard", "--markdown"], tmp_path)
    assert code == 0 and "margin" not in out
    for name in ("first", "second"):
        write_json(results / name / "manifest.json", read_json(results / name / "manifest.json") | {"summary": {}})
    shutil.rmtree(results / "second" / "balance")
    code, _, said = run_here(["leaderboard", "--metric", "balance"], tmp_path)
    assert code == 2 and "no margins were measured" in said and "train.balance.data" in said


def test_margins_by_hand() -> None:
    rewards = np.array([[1.0, 0.0, 0.5], [2.0, -1.0, 1.0], [0.5, 0.25, 0.0], [1.5, 0.5, 2.0]])
    measured = margins(rewards, ["a", "b", "c", "d"])
    assert measured.rewards == {"chosen": 1.25, "rejected": -0.0625, "image_rejected": 0.875}
    assert measured.text.value == 1.3125 and measured.image.value == 0.375
    assert measured.text_above_0.value == 1 and measured.image_above_0.value == 0.75
    assert measured.text.ci[0] > 0 and measured.image.ci[0] < 0 and measured.ratio is None
    sure = margins(np.array([[1.0, 0.0, 0.5]] * 3 + [[2.0, 0.0, 1.0]]), ["a", "b", "c", "d"])
    assert sure.ratio.value == 0.5 and sure.ratio.ci == [0.5, 0.5]
    clustered = margins(np.repeat(rewards, 3, 0), [name for name in "abcd" for _ in range(3)])
    assert clustered.text == measured.text, "three pairs about one picture are no more pictures"


def test_the_report_shows_what_was_measured_with_these_weights(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "results", "mine", ["A dog.", "A dog and a cat."])
    manifest = read_json(folder / "manifest.json") | {"checkpoint": {"kind": "adapter", "fingerprint": "f" * 64}}
    write_json(folder / "manifest.json", manifest)
    rewards = np.array([[1.0, 0.0, 0.5], [2.0, -1.0, 1.0], [0.5, 0.25, 0.0], [1.5, 0.5, 2.0]])
    one = {"after": "end", "steps": 1200, **margins(rewards, ["a", "b", "c", "d"]).written()}
    record = {"run": "mine", "data": "pairs <b>", "n": 4, "checkpoint": "f" * 64, "measured": [one]}
    write_json(folder / "balance" / "pairs.json", record)
    write_json(folder / "balance" / "old.json", record | {"checkpoint": "0" * 64, "data": "other"})
    write_json(folder / "balance" / "broken.json", record | {"measured": []})
    code, _, said = run_here(["report", "-o", "r.html"], tmp_path)
    assert code == 0
    page = (tmp_path / "r.html").read_text()
    assert (
        '<section id="balance"><h2>Modality balance</h2>' in page
        and "Modality balance on pairs &lt;b&gt;, n = 4" in page
    )
    cells = re.findall(r"<td>(.*?)</td>", page.partition('<section id="balance">')[2].partition("</section>")[0])
    assert cells[:2] == ["end", "1,200"] and cells[3] == "100.0 %" and cells[5:] == ["75.0 %", "–"]
    assert cells[2].startswith("1.312 (") and cells[4].startswith("0.375 (−")
    assert (
        "old.json was measured with other weights: harness balance mine --data other" in " ".join(said.split()) + page
    )
    assert "broken.json: the margins cannot be used: measured" in " ".join(said.split()) + page
