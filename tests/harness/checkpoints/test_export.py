"""Exported checkpoints: merged weights say what base and adapter say together, and nothing is written over or mixed up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from harness.alignment.align import AlignRequest, run_align
from harness.checkpoints.export import export_run
from harness.cli import app
from harness.cli.errors import run
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.core.locks import writing
from harness.models import inspect, load_model, load_processor, prompt_text
from harness.publishing import Publication, publish
from harness.runs.folders import Run, open_run
from tests.scored_runs import one_rate
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("aligned")
    base = tiny_llava(folder / "base")
    settings = {
        "train": {"learning_rate": 0.02, "epochs": 4, "batch_size": 8, "micro_batch_size": 8, "max_length": 256}
    }
    data = str(tiny_pairs(folder, 16))
    return run_align(AlignRequest("dpo", str(base), folder / "results", data=data, name="one", settings=settings))


def logits(model: object, processor: object, picture: Path) -> torch.Tensor:
    from PIL import Image

    inputs = processor(text=prompt_text(processor, "what is this"), images=Image.open(picture), return_tensors="pt")  # type: ignore[operator]
    with torch.no_grad():
        return model(**inputs).logits.double()  # type: ignore[operator]


@pytest.mark.slow
def test_merged_weights_say_what_the_adapter_says(aligned: Run, tmp_path: Path) -> None:
    from peft import PeftModel

    assert run(app, ["export", str(aligned.path), "-o", str(tmp_path / "merged")]) == 0
    picture = tiny_photograph(tmp_path / "p.png", 1, (96, 96))
    processor = load_processor(tmp_path / "merged")
    base = load_model(aligned.base_location)
    plain = logits(base, processor, picture)
    expected = logits(PeftModel.from_pretrained(base, aligned.checkpoint), processor, picture)
    found = logits(load_model(tmp_path / "merged"), processor, picture)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (plain - expected).abs().max() > 0.01, "the adapter changes nothing, so nothing was compared"
    assert inspect(tmp_path / "merged").kind == "full"
    manifest = read_json(tmp_path / "merged" / "manifest.json")
    assert manifest["exported_from"]["kind"] == "adapter"
    base = Path(str(aligned.manifest.base.location if aligned.manifest else ""))
    assert manifest["base"]["location"] == manifest["config"]["location"] == base.name and base.is_absolute()
    assert not [path for path in (tmp_path / "merged").glob("*.[jm]*") if str(base.parent) in path.read_text()]


def test_the_card_says_how_it_was_made(aligned: Run, tmp_path: Path) -> None:
    export_run(aligned, tmp_path / "copy", merge=False)
    for folder in (aligned.checkpoint, tmp_path / "copy"):
        card = (folder / "README.md").read_text()
        assert "library_name: peft" in card and "`dpo`, direct preference optimisation" in card
        assert "learning_rate: 0.02" in card and "16 pairs" in card and "Not scored yet" in card
    assert inspect(tmp_path / "copy").kind == "adapter"


def test_the_card_shows_the_scores_that_there_are(aligned: Run, tmp_path: Path) -> None:
    shutil.copytree(aligned.path, tmp_path / "scored")
    write_json(tmp_path / "scored" / "evals" / "halbench@toy" / "scores.json", one_rate(0.25, 0.2, 0.31))
    export_run(open_run(tmp_path / "scored"), tmp_path / "out", merge=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| halbench (toy) | CHAIRs | 25.0 | 20.0 to 31.0 | 40 |" in card
    (entry,) = yaml.safe_load(card.split("---")[1])["model-index"]
    (metric,) = entry["results"][0]["metrics"]
    assert (metric["type"], metric["value"], metric["args"]["confidence_interval"]) == ("chair_s", 25.0, [20.0, 31.0])
    output = tmp_path / "published"
    publish(Publication(open_run(tmp_path / "scored"), output, "us"))
    (path,) = output.glob("every_eval_ever/data/halbench/us/scored/*.json")
    record = read_json(path)
    assert record["source_metadata"]["evaluator_relationship"] == "first_party"
    about = record["model_info"]["additional_details"]
    assert about["method"] == "dpo" and about["model_availability"] == "unknown" and len(about["weights"]) == 64


def test_what_is_there_is_not_written_over(aligned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "there"
    target.mkdir()
    (target / "precious").write_text("x")
    assert run(app, ["export", str(aligned.path), "-o", str(target)]) == 2
    assert "not an exported checkpoint" in capsys.readouterr().err and (target / "precious").exists()
    for option in ([], ["--overwrite"]):
        for place in (target, tmp_path, Path(), aligned.path, aligned.path / "checkpoint"):
            assert run(app, ["export", str(aligned.path), "-o", str(place), *option]) == 2
            assert "not an exported checkpoint" in capsys.readouterr().err and (target / "precious").exists()
    assert (aligned.path / "manifest.json").exists() and (aligned.path / "checkpoint").is_dir()


def test_an_export_is_replaced_when_the_new_one_is_complete_and_by_one_process(
    aligned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    export = ["export", str(aligned.path), "-o", str(target), "--adapter"]
    assert run(app, export) == 0 and run(app, export) == 2
    assert "--overwrite" in capsys.readouterr().err
    with writing(tmp_path / ".out.lock", "it", target):
        assert run(app, [*export, "--overwrite"]) == 2
        assert "another process is writing this checkpoint" in capsys.readouterr().err
    (target / "extra").write_text("x")
    assert run(app, [*export, "--overwrite"]) == 0 and not (target / "extra").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left beside it"


def test_another_base_is_refused(aligned: Run, tmp_path: Path) -> None:
    shutil.copytree(aligned.path, tmp_path / "run")
    other = tiny_llava(tmp_path / "other", seed=3)
    path = tmp_path / "run" / "checkpoint" / "adapter_config.json"
    write_json(path, {**read_json(path), "base_model_name_or_path": str(other)})
    with pytest.raises(BadInputError, match="trained on other base weights"):
        export_run(open_run(tmp_path / "run"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
