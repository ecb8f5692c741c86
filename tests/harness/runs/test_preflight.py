"""What is wrong with a command is said before a folder is made or a byte downloaded, in seconds and one line."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import harness
from tests.harness.remote.hub_server import HubServer, hub
from tests.tiny import tiny_llava, tiny_pairs, tiny_photograph

MODEL, DATA = "llava-hf/llava-v1.6-vicuna-7b-hf", "openbmb/RLAIF-V-Dataset"
LARGE = 7 * 2**30


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test says itself whether the hub is to be asked."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and pairs for it."""
    folder = tmp_path_factory.mktemp("made")
    tiny_llava(folder / "model")
    tiny_pairs(folder / "pairs", 4)
    return folder


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def nothing_made(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {"cache", "hf"}


COMMANDS = {
    "align": ["align", "--method", "mfpo", "--model", "llava-v1.6-7b"],
    "align --dry-run": ["align", "--method", "dpo", "--model", "llava-v1.6-7b", "--dry-run"],
    "eval": ["eval", "--model", "llava-v1.6-7b", "--suite", "pope"],
    "ask": ["ask", "llava-v1.6-7b", "x.png"],
    "verify": ["verify", "llava-v1.6-7b"],
    "data get": ["data", "get", "rlaif-v"],
    "data corrupt": ["data", "corrupt", "rlaif-v", "-o", "set"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network"),
    [
        # Every command both ways; by default each one way, alternately.
        pytest.param(name, network, marks=[pytest.mark.exhaustive] if (number + way) % 2 else [])
        for number, name in enumerate(COMMANDS)
        for way, network in enumerate(("refused", "offline"))
    ],
)
def test_without_a_network_one_line_says_so_at_once(tmp_path: Path, name: str, network: str) -> None:
    offline = {"HF_HUB_OFFLINE": "1"} if network == "offline" else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    start = time.monotonic()
    done = harness(tmp_path, *COMMANDS[name], code=1, HF_HOME=str(tmp_path / "hf"), **offline)
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error", "  where", "  remedy"))]
    what = "data set openbmb/" if name.startswith("data") else f"model {MODEL}"
    wanted = "HF_HUB_OFFLINE is set" if network == "offline" else "the hub cannot be reached: "
    assert len(errors) == 3 and what in errors[0] and wanted in errors[0] and errors[0].rstrip()[-1] in "tdn"
    assert "Retry" not in done.stderr and len(done.stderr.splitlines()) <= 5 and time.monotonic() - start < 60
    assert nothing_made(tmp_path), list(tmp_path.iterdir())


def test_a_hub_that_never_answers_is_given_up(tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.core.errors import HarnessError
    from harness.remote import hub as client

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", silent)
    monkeypatch.setattr(client, "ANSWER_S", 1.0)
    start = time.monotonic()
    with pytest.raises(HarnessError, match="no answer within 1 s"):
        client.look("nobody/nothing-here")
    assert time.monotonic() - start < 10


@pytest.fixture
def full_hub() -> Iterator[HubServer]:
    """A hub that says it has the model and the data, which are large."""
    config = json.dumps({"model_type": "llava_next"}).encode()
    weights = {f"model-0000{one}-of-00002.safetensors": (LARGE, b"?") for one in (1, 2)}
    with hub() as server:
        server.offered["models", MODEL] = {"config.json": (len(config), config), "README.md": (9, b"?"), **weights}
        server.offered["datasets", DATA] = {"data/train-0.parquet": (12 * 2**30, b"?"), "README.md": (9, b"?")}
        yield server


@pytest.mark.slow
def test_a_dry_run_downloads_nothing_large_and_says_what_would_be(tmp_path: Path, full_hub: HubServer) -> None:
    where = {"HF_ENDPOINT": full_hub.url, "HF_HOME": str(tmp_path / "hf")}
    shown = harness(tmp_path, *COMMANDS["align --dry-run"], **where).stdout
    assert f"model {MODEL}: 14.0 GiB" in shown and f"data set {DATA}: 12.0 GiB" in shown
    found = json.loads(harness(tmp_path, *COMMANDS["align --dry-run"], "--json", **where).stdout)
    assert [one["bytes"] // 2**30 for one in found["download"]] == [14, 12]
    assert set(full_hub.sent) == {"config.json"} and nothing_made(tmp_path)


def test_only_what_is_loaded_counts_as_missing() -> None:
    """As Mistral Small's repository has it: the weights twice, for two libraries."""
    from harness.remote.loaded_files import loaded

    index, shards = "model.safetensors.index.json", [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    settings = ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json"]
    others = ["consolidated.safetensors", "tekken.json", "params.json", "LICENSE", "README.md", "SYSTEM_PROMPT.txt"]
    files = [*settings, *others, *shards, index, "vocab.json", "original/model.safetensors", "pytorch_model.bin"]
    assert loaded(files, frozenset()) == {*settings, *shards, index}
    assert loaded(files, frozenset(shards[:1])) == {*settings, shards[0], index}
    slow = ["config.json", "vocab.json", "merges.txt", "LICENSE.txt", "tokenizer.model", "model.safetensors"]
    assert loaded([*slow, index, *shards], frozenset(shards)) == {*slow} - {"LICENSE.txt"}
    old = ["pytorch_model-1.bin", "pytorch_model-2.bin", "pytorch_model.bin.index.json"]
    assert loaded([*old, "training_args.bin", "config.json"], frozenset()) == {*old, "config.json"}


@pytest.mark.slow
def test_a_model_that_was_loaded_is_not_downloaded_again(made: Path, tmp_path: Path) -> None:
    """What transformers leaves on the hub is not missing: the plan is made."""
    photograph = tiny_photograph(tmp_path / "0.png", 0)
    others = ("LICENSE", "consolidated.safetensors", "tekken.json", "merges.txt", "vocab.json", "SYSTEM_PROMPT.txt")
    files = {path.name: path.read_bytes() for path in (made / "model").iterdir()} | dict.fromkeys(others, b"{}")
    with hub() as server:
        server.offered["models", "team/tiny"] = {name: (len(data), data) for name, data in files.items()}
        where = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        plan = ["align", "--method", "dpo", "--model", "team/tiny", "--dry-run", "--json"]
        plan += ["--data", str(made / "pairs" / "rlaif-v.parquet"), "--set", "train.max_length=256"]
        harness(tmp_path, "ask", "team/tiny", str(photograph), "--max-new-tokens", "2", **where)
        assert not {*server.sent} & {*others}
        planned = json.loads(harness(tmp_path, *plan, **where).stdout)
    assert planned["download"] == [] and planned["stages"]


@pytest.mark.slow
def test_the_model_is_looked_at_before_the_data_and_a_family_before_its_weights(
    tmp_path: Path, full_hub: HubServer
) -> None:
    where = {"HF_ENDPOINT": full_hub.url, "HF_HOME": str(tmp_path / "hf")}
    unknown = json.dumps({"model_type": "bert"}).encode()
    full_hub.offered["models", MODEL]["config.json"] = (len(unknown), unknown)
    done = harness(tmp_path, *COMMANDS["align"], code=2, **where)
    assert "'bert'" in done.stderr and not any("datasets" in one for one in full_hub.asked)
    assert set(full_hub.sent) == {"config.json"} and nothing_made(tmp_path)
    done = harness(tmp_path, "align", "--method", "dpo", "--model", "team/absent", code=2, **where)
    assert "team/absent" in done.stderr and "HF_TOKEN" in done.stderr and nothing_made(tmp_path)


@pytest.mark.slow
def test_a_disk_that_is_too_small_is_said_before_the_download(tmp_path: Path, full_hub: HubServer) -> None:
    full_hub.offered["datasets", DATA]["data/train-0.parquet"] = (2**60, b"?")
    where = {"HF_ENDPOINT": full_hub.url, "HF_HOME": str(tmp_path / "hf")}
    for command in (
        COMMANDS["data corrupt"],
        COMMANDS["data get"],
        [*COMMANDS["align"][:2], "dpo", *COMMANDS["align"][3:]],
    ):
        done = harness(tmp_path, *command, code=2, **where)
        assert "the disk is too small" in done.stderr and "HF_HOME" in done.stderr
        assert "data/train-0.parquet" not in full_hub.sent and nothing_made(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "train.report_to=[wandb]"], "'wandb' is not installed"),
        (["--set", "train.report_to=[trackio]"], "'trackio' is not installed"),
        (["--set", "train.epochs=-1"], "epochs"),
        (["--set", "method.betta=1"], "betta"),
        (["--data", "absent.jsonl"], "preference data does not exist"),
        (["--data", "model"], "contains no"),
        (["--results", "pairs/rlaif-v.parquet"], "is a file"),
        (["--results", "pairs/rlaif-v.parquet/x"], "is a file"),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(made: Path, options: list[str], said: str) -> None:
    before = sorted(path for path in made.rglob("*"))
    align = [
        "align",
        "--method",
        "dpo",
        "--model",
        "./model",
        "--data",
        "pairs/rlaif-v.parquet",
        "--name",
        "one",
        *options,
    ]
    done = harness(made, *align, code=2)
    assert said in done.stderr and sorted(path for path in made.rglob("*")) == before


def test_an_evaluation_that_is_refused_or_only_planned_makes_no_folder(made: Path) -> None:
    harness(made, "eval", "--model", "./model", "--suite", "pope", "--data", "absent", code=2)
    harness(made, "eval", "--model", "./model", "--suite", "pope", "--data", ".", code=2)
    assert not (made / "results").exists()
