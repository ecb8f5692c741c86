"""`harness push`: what arrives on the hub is what lies on the disk, byte for byte; what nobody could use is refused before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.alignment.align import AlignRequest, run_align
from harness.checkpoints.export import export_run
from harness.checkpoints.push import PushRequest, push
from harness.cli import app
from harness.cli.errors import run
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json, write_jsonl
from harness.models import fingerprint, is_hub_id
from harness.runs.folders import Run
from tests.harness.generation.scripted import Asked, scripted
from tests.harness.remote.hub_server import READER, TOKEN, HubServer, hub
from tests.scored_runs import one_rate
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph

BASE = "llava-hf/llava-1.5-7b-hf"


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("aligned")
    base = tiny_llava(folder / "base")
    settings = {"train": {"batch_size": 8, "micro_batch_size": 8, "max_length": 256}}
    data = str(tiny_pairs(folder, 8))
    return run_align(AlignRequest("dpo", str(base), folder / "results", data=data, name="one", settings=settings))


@pytest.fixture
def on_hub(aligned: Run, tmp_path: Path) -> Path:
    """A results folder whose run `one` says that its base is the hub's."""
    results = tmp_path / "results"
    shutil.copytree(aligned.path, results / "one")
    checkpoint = results / "one" / "checkpoint"
    configuration = checkpoint / "adapter_config.json"
    write_json(configuration, {**read_json(configuration), "base_model_name_or_path": BASE})
    base = {"label": "llava-1.5-7b", "location": BASE, "fingerprint": fingerprint(BASE)}
    for path in (results / "one" / "manifest.json", checkpoint / "manifest.json"):
        write_json(path, {**read_json(path), "base": base})
    write_json(results / "one" / "evals" / "halbench@toy" / "scores.json", one_rate(0.25, 0.2, 0.31))
    return results


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub() as running:
        yield running


def harness(
    server: HubServer, cwd: Path, *arguments: str, token: str | None = TOKEN, **more: str
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the hub's library reads its environment when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(cwd / "hf"), "HF_HUB_DISABLE_XET": "1", **more}
    if token is not None:
        environment["HF_TOKEN"] = token
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.claims("push --message", "push --revision", "push --json")
def test_a_merged_checkpoint_arrives_byte_for_byte(aligned: Run, server: HubServer, tmp_path: Path) -> None:
    export_run(aligned, tmp_path / "merged")
    remote = contents(tmp_path / "merged")
    (tmp_path / "merged" / ".cache").mkdir()
    (tmp_path / "merged" / ".cache" / "secret").write_text("stays here")
    done = harness(server, tmp_path, "push", "merged", "team/one", "--message", "the first", "--json")
    assert done.returncode == 0, done.stderr
    assert server.stored["team/one", "main"] == remote and "model.safetensors" in remote
    found = json.loads(done.stdout)
    assert {one["name"]: one["bytes"] for one in found["files"]} == {name: len(data) for name, data in remote.items()}
    assert found["private"] is True and server.private == {"team/one": True} and server.messages == ["the first"]
    assert b"base_model" not in remote["README.md"], "the hub refuses a card whose base is a folder"

    sent = server.asked.count(f"PUT /lfs/{_oid(remote['model.safetensors'])}")
    again = harness(server, tmp_path, "push", "merged", "team/one", "--public", "--revision", "second")
    assert again.returncode == 0, again.stderr
    assert sent == 1 == server.asked.count(f"PUT /lfs/{_oid(remote['model.safetensors'])}"), "sent twice"
    assert server.stored["team/one", "second"] == remote and server.private == {"team/one": True}
    assert "(private), branch second, commit" in again.stdout and "harness verify" in again.stdout


def _oid(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@pytest.mark.claims("push --public")
def test_a_run_goes_up_with_a_card_of_today(on_hub: Path, server: HubServer, tmp_path: Path) -> None:
    checkpoint = on_hub / "one" / "checkpoint"
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    before = contents(checkpoint)
    assert b"Not scored yet" in before["README.md"]
    done = harness(server, tmp_path, "push", "one", "team/adapter", "--public")
    assert done.returncode == 0, done.stderr
    arrived = server.stored["team/adapter", "main"]
    card = arrived.pop("README.md").decode()
    assert "| halbench (toy) | CHAIRs | 25.0 |" in card and f"base_model: {BASE}" in card
    manifest = arrived.pop("manifest.json").decode()
    assert str(Path(sys.executable).parent) not in manifest and str(tmp_path) not in manifest + card
    assert json.loads(manifest)["checkpoint"] == json.loads(before["manifest.json"])["checkpoint"]
    assert arrived == {name: data for name, data in before.items() if name not in ("README.md", "manifest.json")}
    assert contents(checkpoint) == before, "the run was changed"
    assert server.private == {"team/adapter": False} and "not verified" in done.stdout


@pytest.mark.claims("push --dry-run")
def test_a_dry_run_asks_the_hub_nothing(on_hub: Path, server: HubServer, tmp_path: Path) -> None:
    done = harness(server, tmp_path, "push", "one", "team/one", "--dry-run", token=None, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert server.asked == []
    for name in contents(on_hub / "one" / "checkpoint"):
        assert name in done.stdout
    assert "would be uploaded to" in done.stdout and "(private if it is new)" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "more", "code", "said"),
    [
        (None, {}, 2, "hf auth login"),
        ("hf_unknown", {}, 2, "rejects this token"),
        (READER, {}, 2, "write access to 'team'"),
        (TOKEN, {"HF_HUB_OFFLINE": "1"}, 2, "offline mode"),
        (TOKEN, {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "could not be reached"),
    ],
)
def test_refusals_say_what_to_do(
    token: str | None, more: dict[str, str], code: int, said: str, on_hub: Path, server: HubServer, tmp_path: Path
) -> None:
    done = harness(server, tmp_path, "push", "one", "team/one", token=token, **more)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
    assert server.stored == {} or not any(server.stored.values())


def test_an_adapter_of_a_local_base_is_refused(aligned: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["push", str(aligned.path), "team/one", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "others could not load this adapter" in said and f"harness export {aligned.path} -o DIR" in said


def test_weights_that_the_manifest_does_not_know_are_refused(on_hub: Path) -> None:
    weights = on_hub / "one" / "checkpoint" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadInputError, match="changed after they were written"):
        push(PushRequest("one", "team/one", on_hub), dry_run=True)


@pytest.mark.parametrize("name", ["one", "a/b/c", "https://hub/team/one", "team/", "/one", "team/a name"])
def test_a_name_without_namespace_is_refused(name: str, on_hub: Path) -> None:
    with pytest.raises(BadInputError, match="not a repository name"):
        push(PushRequest("one", name, on_hub), dry_run=True)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(BadInputError, match="neither a checkpoint nor a run"):
        push(PushRequest(str(tmp_path / "notes"), "team/one", tmp_path / "results"), dry_run=True)
    with pytest.raises(BadInputError, match="there is no run 'onee'"):
        push(PushRequest("onee", "team/one", tmp_path / "results"), dry_run=True)


def test_a_folder_is_not_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team" / "model").mkdir(parents=True)
    assert is_hub_id(BASE) and is_hub_id("gpt2")
    assert not any(map(is_hub_id, ("team/model", "/home/me/base", "./base", "~/base", "a/b/c", "")))


@pytest.mark.slow
@pytest.mark.claims("push --dataset")
def test_pairs_go_up_as_a_data_set_with_a_card(server: HubServer, tmp_path: Path) -> None:
    import yaml

    def say(asked: Asked) -> str:
        return ("A dog.", "A dog and a cup.", "A cup.")[(asked.seed or 0) % 3]

    tiny_photograph(tmp_path / "one.png", 0)
    objects = [{"label": "dog", "box": [1.0, 1.0, 9.0, 9.0]}]
    pair = {"id": "p", "image": "one.png", "prompt": "What?", "chosen": "A", "rejected": "B", "objects": objects}
    write_jsonl(tmp_path / "prefs.jsonl", [pair])
    with scripted(say) as endpoint:
        task = [
            "--prompts",
            str(tmp_path / "prefs.jsonl"),
            "--judge",
            "chair",
            "--endpoint",
            endpoint.url,
            "-o",
            "pairs",
        ]
        made = harness(server, tmp_path, "data", "generate", "vlm", *task, OPENAI_API_KEY="sk-test")
        assert made.returncode == 0, made.stderr
    # Of a set that was replaced: earlier versions left such files.
    for name in ("shard-1-of-2-part-00000.parquet", "shard-1-of-2.json"):
        (tmp_path / "pairs" / name).write_text("{}")
    listed = harness(server, tmp_path, "push", "pairs", "team/pairs", "--dataset", "--dry-run", token=None)
    assert listed.returncode == 0 and not server.stored and "datasets/team/pairs" in listed.stdout, listed.stderr
    done = harness(server, tmp_path, "push", "pairs", "team/pairs", "--dataset")
    assert done.returncode == 0, done.stderr
    assert any("/api/datasets/team/pairs/commit" in asked for asked in server.asked)
    remote = server.stored["team/pairs", "main"]
    names = ("part-00000.parquet", "manifest.json", "config.json")
    assert remote.keys() == {*names, "README.md"}, "answers that were not paired stay here"
    assert remote["part-00000.parquet"] == (tmp_path / "pairs" / "part-00000.parquet").read_bytes()
    assert str(tmp_path).encode() in (tmp_path / "pairs" / "config.json").read_bytes()
    assert str(tmp_path).encode() not in b"".join(remote.values()), "this machine's folders stay here"
    _, metadata, text = remote["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(metadata)["configs"] == [{"config_name": "default", "data_files": "*.parquet"}]
    pairs = read_json(tmp_path / "pairs" / "manifest.json")["pairs"]
    assert f"{pairs} preference pairs of answers by `vlm` to 1 prompts" in text and "`chair`" in text
    refused = harness(server, tmp_path, "push", ".", "team/other", "--dataset")
    assert refused.returncode == 2 and "no set of generated pairs" in refused.stderr
