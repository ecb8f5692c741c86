"""Each option of `export`, `push`, `verify`, `ask`, `serve`, `doctor` and `list` does what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.alignment.align import AlignRequest, run_align
from harness.core.files import read_json, write_json
from harness.models import fingerprint, inspect
from tests.commands import json_here as run
from tests.commands import run_here
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `there` with an aligned run `one`, and models beside it."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny_llava(folder / "base")
    tiny_llava(folder / "there" / "second", seed=3)
    train = {"learning_rate": 0.02, "epochs": 2, "batch_size": 8, "micro_batch_size": 8, "max_length": 256}
    data = str(tiny_pairs(folder / "pairs", 8))
    run_align(AlignRequest("dpo", str(base), folder / "there", data=data, name="one", settings={"train": train}))
    tiny_photograph(folder / "p.png", 0)
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.mark.slow
@pytest.mark.claims(
    "export --output", "export --merge", "export --adapter", "export --overwrite", "export --results", "export --json"
)
def test_export(here: Path, tmp_path: Path) -> None:
    begin = ["export", "one", "--results", "there"]
    assert run(*begin, "-o", str(tmp_path / "merged"))["checkpoint"]["kind"] == "full"
    run(*begin, "--output", str(tmp_path / "adapter"), "--adapter")
    assert [inspect(tmp_path / name).kind for name in ("merged", "adapter")] == ["full", "adapter"]
    assert "--overwrite" in run(*begin, "-o", str(tmp_path / "adapter"), code=2)
    run(*begin, "-o", str(tmp_path / "adapter"), "--overwrite")
    assert inspect(tmp_path / "adapter").kind == "full"


@pytest.mark.claims(
    "push --results", "push --private", "push --public", "push --dry-run", "push --revision", "push --json"
)
def test_push_says_beforehand(here: Path, tmp_path: Path) -> None:
    """What arrives at a hub, with message and branch, is in `test_push.py`."""
    import shutil

    shutil.copytree(here / "there" / "one", tmp_path / "one")
    hub = "llava-hf/llava-1.5-7b-hf"
    configuration = tmp_path / "one/checkpoint/adapter_config.json"
    write_json(configuration, {**read_json(configuration), "base_model_name_or_path": hub})
    base = {"label": "llava-1.5-7b", "location": hub, "fingerprint": fingerprint(hub)}
    for path in (tmp_path / "one/manifest.json", tmp_path / "one/checkpoint/manifest.json"):
        write_json(path, {**read_json(path), "base": base})
    begin = ["push", "one", "team/one", "--dry-run", "--results", str(tmp_path)]
    plain, public = run(*begin), run(*begin, "--public", "--revision", "second")
    assert (plain["private"], plain["revision"], plain["commit"]) == (True, "main", None)
    assert (public["private"], public["revision"]) == (False, "second")


@pytest.mark.slow
@pytest.mark.claims("verify --probes", "verify --backend", "verify --dtype", "verify --results", "verify --json")
def test_verify(here: Path) -> None:
    begin = ["verify", "one", "--results", "there"]
    found = run(*begin, "--backend", "transformers", "--probes", "2")
    assert found["same"] and len(found["probes"]) == 2 and found["serving"]["dtype"] == "float32"
    low = run(*begin, "--backend", "transformers", "--probes", "1", "--dtype", "bfloat16")
    assert len(low["probes"]) == 1 and low["serving"]["dtype"] == "bfloat16"
    assert "nobody" in run(*begin, "--backend", "nobody", code=2)


@pytest.mark.claims("ask --compare", "ask --backend", "ask --max-new-tokens", "ask --results", "ask --json")
def test_ask(here: Path) -> None:
    begin = ["ask", "one", "p.png", "what is this", "--results", "there"]
    short = run(*begin, "--max-new-tokens", "2")
    long = run(*begin, "--max-new-tokens", "30", "--compare", "second")
    assert list(short) == ["one"] and list(long) == ["one", "second"]
    assert len(short["one"]) < len(long["one"])
    assert "nobody" in run(*begin, "--backend", "nobody", code=2)


@pytest.mark.claims("serve --host", "serve --port", "serve --results")
def test_serve(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server itself is started in `test_vllm.py`; here, what it would be told."""
    from harness.serving import server

    started: list[tuple[Path, str, int]] = []
    monkeypatch.setattr(server, "serve", lambda folder, host, port: started.append((folder, host, port)))
    for options in ([], ["--host", "0.0.0.0", "--port", "81"]):
        code, _, said = run_here(["serve", "one", "--results", "there", *options])
        assert code == 0, said
    folder = Path("there/one/checkpoint")
    assert started == [(folder, "127.0.0.1", 8000), (folder, "0.0.0.0", 81)]
    line, _ = server.command(folder, "0.0.0.0", 81)
    assert line[line.index("--host") + 1] == "0.0.0.0" and line[line.index("--port") + 1] == "81"


@pytest.mark.claims("doctor --full", "doctor --results", "doctor --json")
def test_doctor(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it looks at has tests of its own, and takes long."""
    import sys

    from harness.doctor import software
    from harness.doctor.line import Line

    monkeypatch.setattr(software, "_serving", lambda: iter([Line("a tiny model", "ok", "served")]))
    monkeypatch.setattr(
        sys.modules["harness.doctor.examine"],
        "software",
        lambda full: iter([Line("the rest", "ok", "well"), *(software._serving() if full else ())]),
    )

    def lines(*more: str) -> dict[str, str]:
        ended, out, _ = run_here(["doctor", "--json", *more])
        assert ended in (0, 1)
        return {line["name"]: f"{line['finding']} {line['remedy']}" for line in json.loads(out)}

    plain, full = lines(), lines("--full", "--results", "p.png/runs")
    assert "a tiny model" not in plain and "a tiny model" in full
    assert plain["results folder"] != full["results folder"]

    ended, out, _ = run_here(["doctor"])
    assert ended == 0 and out.index("Optional, and not here\n") > out.index("Works\n") and "Missing" not in out
    ended, out, _ = run_here(["doctor", "pope"])
    missing = out[out.index("Missing for what you asked\n") :]
    assert ended == 1 and "data pope: not here" in missing and "data coco-val2014" in missing and "amber" not in missing
    ended, _, said = run_here(["doctor", "pop"])
    assert ended == 2 and "did you mean pope" in said


@pytest.mark.claims("list --json")
def test_list() -> None:
    assert [row["name"] for row in run("list", "worlds")] == ["pocket", "pocket-rich"]


@pytest.mark.slow
@pytest.mark.claims(
    "balance --data", "balance --limit", "balance --corruption", "balance --set", "balance --dtype", "balance --seed",
    "balance --columns", "balance --image-root", "balance --results", "balance --json",
)  # fmt: skip
def test_balance(here: Path, tmp_path: Path) -> None:
    """On other pictures than those that were trained on."""
    (tmp_path / "far").mkdir()
    for number in range(6):
        tiny_photograph(tmp_path / f"{number}.png", 100 + number)
    tiny_photograph(tmp_path / "far" / "0.png", 200)
    pair = {"prompt": "what is this", "chosen": "a red cat", "rejected": "a blue dog"}
    rows = [pair | {"id": str(number), "image": f"{number}.png"} for number in range(6)]

    def written(name: str, rows: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    def record(data: str, *more: str) -> Any:
        return run("balance", "one", "--results", "there", "--data", data, *more)[0]

    held = written("held.jsonl", rows)
    plain = record(held)
    assert (plain["n"], plain["dtype"], plain["images"]["corruption"]) == (6, "auto", "whole-noise")
    few = record(held, "--limit", "3", "--dtype", "bfloat16", "--corruption", "crop", "--set", "strength=0.5")
    assert (few["n"], few["images"]["corruption"], few["images"]["strength"]) == (3, "crop", 0.5)
    assert few["dtype"] == "bfloat16" and few["measured"] != plain["measured"]
    assert record(held, "--set", "corruption=crop")["images"]["corruption"] == "crop"
    twice = ("--corruption", "whole-noise", "--set", "corruption=crop")
    refused = run("balance", "one", "--results", "there", "--data", held, *twice, code=2)
    assert "'corruption' is given twice" in refused
    assert record(held, "--seed", "1")["measured"] != plain["measured"], "the noise is the same"
    bare = [{("query" if key == "prompt" else key): value for key, value in row.items()} for row in rows]
    assert record(written("bare.jsonl", bare), "--columns", "prompt=query")["n"] == 6
    (tmp_path / "elsewhere").mkdir()
    inside = written("elsewhere/d.jsonl", rows)
    assert record(inside, "--image-root", str(tmp_path))["n"] == 6
    assert "does not exist" in run("balance", "one", "--results", "there", "--data", inside, code=2)
