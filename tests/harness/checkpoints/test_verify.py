"""`harness verify`: the same on both sides is found to be the same, and every mismatch is found for what it is.

Here transformers' generation is the server; `test_vllm.py` has vLLM.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.alignment.align import AlignRequest, run_align
from harness.checkpoints.parity import Expected, compare
from harness.checkpoints.probes import draw_probes
from harness.checkpoints.push import _notes
from harness.checkpoints.verify import ensure_verified
from harness.cli import app
from harness.cli.errors import run
from harness.core.files import read_json
from harness.runs.folders import Run, open_run
from harness.runs.targets import target_of
from harness.serving.base import TokenDetails
from harness.serving.transformers import TransformersBackend
from tests.tiny import tiny_llava, tiny_photograph

BACKEND = ["--backend", "transformers", "--probes", "4"]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose name has a dot, as those of sweeps have."""
    folder = tmp_path_factory.mktemp("aligned")
    base = tiny_llava(folder / "base")
    tiny_photograph(folder / "p.png", 0)
    pair = {"prompt": "what is this", "chosen": "a red cat", "rejected": "a blue dog", "image": "p.png"}
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair | {"id": str(n)}) for n in range(8)) + "\n")
    settings = {"train": {"learning_rate": 0.01, "epochs": 4, "batch_size": 8, "max_length": 256}}
    data = str(folder / "pairs.jsonl")
    return run_align(AlignRequest("dpo", str(base), folder / "results", data=data, name="beta0.1", settings=settings))


@pytest.fixture
def copy(aligned: Run, tmp_path: Path) -> Path:
    """The run's checkpoint, to be broken."""
    return Path(shutil.copytree(aligned.checkpoint, tmp_path / "copy"))


def verified(capsys: pytest.CaptureFixture[str], name: Path, code: int, *more: str) -> dict[str, Any]:
    assert run(app, ["verify", str(name), "--json", *BACKEND, *more]) == code
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return record


def swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_runs_checkpoints_and_bases_are_served_as_they_were_trained(
    aligned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["export", str(aligned.path), "-o", str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    base = Path(read_json(aligned.path / "manifest.json")["base"]["location"])
    for name, adapter in {
        aligned.path: True,
        aligned.checkpoint: True,
        tmp_path / "merged": False,
        base: False,
    }.items():
        record = verified(capsys, name, 0)
        assert record["same"] and not record["findings"] and record["largest"] < 1e-4, name
        assert (record["adapter"] is not None) == adapter == (record["adapter_changes"] is not None)
        assert not adapter or record["adapter_changes"] > 0.1
    kept = aligned.path / "verified.json"
    kept.unlink()
    assert run(app, ["verify", str(aligned.path), *BACKEND[:2], "--probes", "1"]) == 0
    assert "passed: served as it was trained" in capsys.readouterr().out and not kept.exists(), "one probe is too few"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "first", "last"),
    [
        ("chat_template.jinja", "USER:", "Human:", "check the chat template", "the chat template differ between"),
        ("processor_config.json", '"height": 72', '"height": 96', "48 image tokens in training and 36", "crop_size"),
        ("processor_config.json", "0.48145466", "0.1", "the image processor's scale, mean and size", "image_mean"),
    ],
)
def test_another_processor_is_found(
    copy: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, first: str, last: str
) -> None:
    swap(copy / file, old, new)
    findings = verified(capsys, copy, 1)["findings"]
    assert first in findings[0] and last in findings[-1]
    assert run(app, ["verify", str(copy), *BACKEND]) == 1
    assert "failed: " in capsys.readouterr().out


@pytest.mark.slow
def test_changed_and_idle_weights_are_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: value * 1.01 for name, value in weights.items()}, path)
    [finding] = verified(capsys, copy, 1)["findings"]
    assert "were changed after they were written" in finding
    (copy / "manifest.json").unlink()
    assert verified(capsys, copy, 0)["same"], "an adapter without a manifest is taken as it is"
    save_file({name: value * 0 for name, value in weights.items()}, path)
    assert run(app, ["verify", str(copy), *BACKEND]) == 1, "the engine refuses it before anything is compared"
    assert "changes nothing" in " ".join(capsys.readouterr().err.split())


def test_another_base_is_found(aligned: Run, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    base = Path(read_json(aligned.path / "manifest.json")["base"]["location"])
    other = Path(shutil.copytree(base, tmp_path / "other"))
    weights = {name: value * 1.01 for name, value in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    swap(copy / "adapter_config.json", str(base), str(other))
    [finding] = verified(capsys, copy, 1)["findings"]
    assert "not those that the adapter was trained on" in finding


def details(logprobs: tuple[float, ...] = (-0.1, -0.7), tokens: tuple[int, ...] = (5, 6)) -> TokenDetails:
    return TokenDetails((1, 2, 3), tokens, logprobs)


def test_near_ties_pass_and_are_said_and_no_number_does_not() -> None:
    probes = draw_probes(1)
    tie = Expected((1, 2, 3), 9, (-0.1, -0.7), (5, 7), (-0.1, -0.6995))
    record = compare(probes, [tie], [details()], 1e-3)
    assert record.findings == [] and record.near_ties == 1 and record.probes[0].same_tokens == 1
    clear = Expected((1, 2, 3), 9, (-0.1, -0.7), (5, 7), (-0.1, -0.69))
    [finding] = compare(probes, [clear], [details()], 1e-3).findings
    assert "1 of 2 greedy tokens" in finding
    same = Expected((1, 2, 3), 9, (-0.1, -0.7), (5, 6), (-0.1, -0.7))
    for wrong in (-0.702, float("nan")):
        [finding] = compare(probes, [same], [details((-0.1, wrong))], 1e-3).findings
        assert "log-probabilities differ" in finding


def test_an_adapter_that_is_not_applied_or_hardly_trained_is_told_from_others() -> None:
    probes = draw_probes(1)
    served = [details((-0.1, -0.7))]
    idle = Expected((1, 2, 3), 9, (-0.4, -0.7), (5, 6), (-0.4, -0.7), without=(-0.1, -0.7))
    assert "the adapter is not applied" in compare(probes, [idle], served, 1e-3).findings[-1]
    faint = Expected((1, 2, 3), 9, (-0.1, -0.7), (5, 6), (-0.1, -0.7), without=(-0.1, -0.7001))
    record = compare(probes, [faint], served, 1e-3)
    assert record.findings == [] and "too small to see" in record.notes[0]


def test_probes_are_of_many_sizes_and_the_same_every_time() -> None:
    probes = draw_probes(9)
    assert len({probe.size for probe in probes}) == 9 and len({probe.prompt for probe in probes}) == 7
    assert all(probe.image.size() == probe.size for probe in probes)
    draw_probes.cache_clear()
    assert [probe.image.fingerprint() for probe in draw_probes(9)] == [probe.image.fingerprint() for probe in probes]


def test_a_backend_that_does_not_know_its_tokens_is_refused(aligned: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["verify", str(aligned.path), "--backend", "openai"]) == 2
    assert "does not report the tokens" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_verified_is_recorded_and_neither_missed_by_push_nor_verified_by_eval(
    aligned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(aligned.path.parents[1])
    results, target = tmp_path / "results", target_of(aligned)
    copied = open_run(Path(shutil.copytree(aligned.path, results / "one")))
    (results / "one" / "verified.json").unlink(missing_ok=True)
    assert "it was not verified" in " ".join(_notes(copied.checkpoint, copied))
    assert run(app, ["verify", "one", "--results", str(results), *BACKEND]) == 0
    assert not _notes(copied.checkpoint, copied)
    record = read_json(results / "one" / "verified.json")
    assert (record["same"], record["checkpoint"], record["weights"]) == (True, "one", target.fingerprint)
    capsys.readouterr()
    settings = TransformersBackend.Settings()
    ensure_verified([target_of(copied)], TransformersBackend, settings)
    assert "served as it was trained" not in capsys.readouterr().err, "it was verified again"
    (results / "one" / "verified.json").unlink()
    (results / "one" / "verified.json").mkdir()  # so that it cannot be written
    assert run(app, ["verify", "one", "--results", str(results), *BACKEND]) == 0
    assert "the verification is not recorded" in capsys.readouterr().err
    (results / "one" / "verified.json").rmdir()
    swap(results / "one" / "checkpoint" / "chat_template.jinja", "USER:", "Human:")
    assert run(app, ["verify", "one", "--results", str(results), *BACKEND]) == 1
    assert not (results / "one" / "verified.json").exists(), "it did not pass"


@pytest.mark.slow
@pytest.mark.claims("eval --verify")
def test_eval_verifies_once_a_checkpoint_and_stops_before_the_first_item(
    aligned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.worlds.pocket.formats import write_benchmarks

    monkeypatch.chdir(aligned.path.parents[1])  # where the model's label, "base", is its folder
    shutil.copytree(aligned.path, tmp_path / "results" / "one")
    write_benchmarks(0, "validation", tmp_path / "data")
    folder = tmp_path / "results" / "one"
    command = ["eval", "--run", str(folder), "--data", str(tmp_path / "data"), "--suite", "pope", "--limit", "4"]
    command += ["--verify", "--backend", "transformers"]
    assert run(app, command) == 0
    assert "served as it was trained" in capsys.readouterr().err
    assert read_json(folder / "verified.json")["same"]
    assert run(app, [*command, "--overwrite"]) == 0
    assert "served as it was trained" not in capsys.readouterr().err, "it was verified before"
    [log] = folder.glob("evals/*/responses.jsonl")
    answered = len(log.read_text().splitlines())
    swap(folder / "checkpoint" / "chat_template.jinja", "USER:", "Human:")
    command[command.index("4")] = "60"  # new items, so an engine would start
    assert run(app, command) == 1
    assert "is not served as it was trained" in capsys.readouterr().err
    assert len(log.read_text().splitlines()) == answered


def test_an_answer_is_compared_up_to_a_token_of_an_image() -> None:
    """transformers would look for that image's features."""
    from harness.checkpoints.verify import _before_image
    from harness.serving.base import TokenDetails

    served = TokenDetails((1, 9), (4, 9, 5), (-0.1, -0.2, -0.3))
    assert _before_image(served, 9) == TokenDetails((1, 9), (4,), (-0.1,))
    assert _before_image(served, 8) is served and _before_image(served, None) is served
