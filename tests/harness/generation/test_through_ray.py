"""`harness data generate --ray`: two workers with an engine each make the same set as one process, on the shipped model."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import HarnessError
from harness.core.files import write_jsonl
from harness.core.ray_data import _InFolder
from harness.evaluation.responses import ResponseLog
from harness.worlds.pocket.draw import draw, png
from harness.worlds.pocket.scenes import make_scenes
from tests.commands import run_here

PROMPTS, SAMPLES, PART = 6, 3, 2


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drawn pictures with the boxes of what is in them, as preference data."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number, scene in enumerate(make_scenes(0, "preference", PROMPTS)):
        (tmp_path / f"{number}.png").write_bytes(png(draw(scene)))
        objects = [{"label": thing.name, "box": list(map(float, thing.box))} for thing in scene.things]
        row = {"image": f"{number}.png", "question": "Please describe this image in detail.", "objects": objects}
        rows.append(row | {"chosen": "A dog.", "rejected": "A cat."})
    write_jsonl(tmp_path / "prefs.jsonl", rows)
    return tmp_path


def generate(output: str, *more: str, code: int = 0, judge: str = "chair") -> str:
    command = ["data", "generate", "pocket", "--prompts", "prefs.jsonl", "--judge", judge, "-o", output]
    command += ["--backend", "transformers", "--samples", str(SAMPLES), "--temperature", "1.3"]
    command += ["--set", "sample.max_new_tokens=40", "--part-size", str(PART), *more]
    ended, _, said = run_here(command)
    assert ended == code, said
    return " ".join(said.split())


class Reader:
    """A worker whose task is a path."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"text": Path(row["task"].decode()).read_text()}


def test_a_worker_is_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, elsewhere = tmp_path / "command", tmp_path / "elsewhere"
    for folder in (command, elsewhere):
        folder.mkdir()
    (command / "note.txt").write_text("read")
    monkeypatch.chdir(elsewhere)  # as Ray starts it
    worker = _InFolder(Reader)
    assert worker({"task": b"note.txt", "folder": str(command)}) == {"text": "read"}
    error = pickle.loads(worker({"task": b"note.txt", "folder": str(tmp_path / "not here")})["failed"])
    assert isinstance(error, HarnessError) and "cannot enter the folder" in error.problem
    assert error.where is not None and str(tmp_path / "not here") in error.where


@pytest.mark.slow
@pytest.mark.claims("data generate --ray")
def test_two_workers_make_the_same_set(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    assert "leave out --ray" in generate("cut", "--ray", "2", judge="continuation", code=2)
    generate("plain")
    # A part that is done, and one that was begun, are not asked for again.
    for name, lines in (("part-00000", PART * SAMPLES), ("part-00001", 1)):
        (here / f"ray/candidates/{name}").mkdir(parents=True)
        kept = (here / f"plain/candidates/{name}/responses.jsonl").read_text().splitlines(keepends=True)
        (here / f"ray/candidates/{name}/responses.jsonl").write_text("".join(kept[:lines]))
    # As on a cluster: Ray was started elsewhere, and all paths of the command are relative to where it runs.
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with monkeypatch.context() as there:
        there.chdir(elsewhere)
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        generate("ray", "--ray", "2")
    finally:
        ray.shutdown()
    assert not list(elsewhere.iterdir())
    parts = sorted(path.name for path in (here / "plain").glob("*.parquet"))
    assert len(parts) == PROMPTS // PART
    for name in (*parts, "config.json"):
        assert (here / "ray" / name).read_bytes() == (here / "plain" / name).read_bytes(), name
    for folder in (here / "plain/candidates").iterdir():
        answers = ResponseLog.peek(folder)
        assert len(answers) == PART * SAMPLES and ResponseLog.peek(here / "ray/candidates" / folder.name) == answers
        lines = (here / f"ray/candidates/{folder.name}/responses.jsonl").read_text().splitlines()
        assert len(lines) == PART * SAMPLES, "an answer was generated twice"
