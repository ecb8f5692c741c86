"""Every family is aligned on one road: the tower stays as it is, and the checkpoints are what the hub's users and servers expect."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from aligners.base import CHOSEN, REJECTED
from aligners.dpo import DPO
from aligners.training.adapters import adapted_modules
from aligners.training.encoding import Encoder
from aligners.training.families import FAMILIES as ALIGNED
from aligners.training.families import REFUSED, check_family, family_of
from aligners.training.job import AlignJob
from aligners.training.layout import collate
from aligners.training.policy import Policy
from aligners.training.run import train
from aligners.training.session import Session
from harness.alignment.align import AlignRequest, run_align
from harness.cli import app
from harness.cli.errors import run
from harness.core.config import LoraSettings, Savings, TrainSettings
from harness.core.errors import BadInputError
from harness.core.files import read_json, write_json
from harness.core.types import ImageRef, PreferenceExample
from harness.models import aliases, export_full, inspect, load_model, load_processor, prompt_inputs
from harness.models.code_families import CODE_FAMILIES, NEVER_RUN
from harness.runs.folders import Run
from tests.aligners.training.test_cost_only import KilledError, killed_at
from tests.aligners.training.test_resume import job, weights
from tests.tiny import tiny_pairs, tiny_photograph
from tests.tiny_families import FAMILIES as USUAL
from tests.tiny_modern import ALIKE, MODERN
from tests.tiny_variants import VARIANTS

TRAINED = ("llava-phi3", "pixtral", "gemma3", "aya-vision", "qwen3.5")
"""Variants that are trained, merged and served, too: each has something that no family of the usual ones has."""
FAMILIES = {**USUAL, **{name: VARIANTS[name] for name in TRAINED}, **MODERN}
SIZES = ((40, 24), (60, 90), (48, 48))
HUB = {
    "gemma3": r"(vision_tower\.vision_model|multi_modal_projector|language_model\.model)\.",
    "aya_vision": r"(vision_tower\.vision_model|multi_modal_projector|language_model\.model)\.",
    "qwen3_5": r"(model\.visual|model\.language_model|lm_head)\.",
    "qwen3_5_moe": r"(model\.visual|model\.language_model|lm_head)\.",
    "gemma4": r"(model\.(vision_tower|embed_vision|language_model)|lm_head)\.",
    "glm4v": r"(model\.visual|model\.language_model|lm_head)\.",
    "glm46v": r"(model\.visual|model\.language_model|lm_head)\.",
    "internvl": r"(vision_tower\.(embeddings|encoder)|multi_modal_projector|language_model\.(model|lm_head))\.",
    "llava_onevision": r"image_newline|(vision_tower\.vision_model|multi_modal_projector|language_model\.(model|lm_head))\.",
    "mistral3": r"(vision_tower\.(patch_conv|ln_pre|transformer)|multi_modal_projector|language_model\.(model|lm_head))\.",
    "llava": r"(vision_tower\.(vision_model|patch_conv|ln_pre|transformer)|multi_modal_projector|language_model\.(model|lm_head))\.",
    "llava_next": r"image_newline|(vision_tower\.vision_model|multi_modal_projector|language_model\.model|language_model\.lm_head)\.",
    "qwen2_vl": r"(visual|model\.layers|model\.embed_tokens|model\.norm|lm_head)\.",
    "qwen2_5_vl": r"(visual|model\.layers|model\.embed_tokens|model\.norm|lm_head)\.",
    "qwen3_vl_moe": r"(model\.visual|model\.language_model|lm_head)\.",
    "qwen3_vl": r"(model\.visual|model\.language_model|lm_head)\.",
    "idefics3": r"(model\.vision_model|model\.connector|model\.text_model|lm_head)\.",
    "smolvlm": r"(model\.vision_model|model\.connector|model\.text_model|lm_head)\.",
}
"""How the tensors' names begin in the hub's checkpoints."""
PROJECTORS = re.compile(
    r"embed_vision|multi_modal_projector|visual\.(merger|deepstack_merger_list)|connector|image_newline"
)
TOWERS = re.compile(r"vision_tower|visual|vision_model")


def aligned(family: str, folder: Path, tuning: str) -> Run:
    """A base of the family, aligned with two steps of DPO on images of three sizes."""
    export_full(*FAMILIES[family](), folder / "base")
    rows = []
    for n, size in enumerate(SIZES * 2):
        tiny_photograph(folder / f"{n}.png", n, size)
        pair = {"prompt": "What is in the picture?", "chosen": f"a red cat {n}", "rejected": f"a red dog and {n} cups"}
        rows.append(json.dumps(pair | {"id": str(n), "image": f"{n}.png"}))
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    train = {"learning_rate": 0.01, "epochs": 2, "batch_size": 6, "micro_batch_size": 3, "max_length": 512}
    settings = {"train": {**train, "tuning": tuning, "schedule": "constant", "lora": {"rank": 8, "alpha": 16}}}
    data = str(folder / "pairs.jsonl")
    return run_align(AlignRequest("dpo", str(folder / "base"), folder / "results", data=data, settings=settings))


def examples(folder: Path) -> list[PreferenceExample]:
    """An example of each size."""
    texts = {"chosen": "a red cat", "rejected": "a blue dog and a cup"}
    pictures = [tiny_photograph(folder / f"{n}.png", n, size) for n, size in enumerate(SIZES)]
    return [PreferenceExample(path.stem, "What is it?", {"original": ImageRef(path=path)}, texts) for path in pictures]


def logits(model: Any, processor: Any, picture: Path) -> torch.Tensor:
    inputs = prompt_inputs(processor, "What is in the picture?", ImageRef(path=picture).open())
    with torch.no_grad():
        found: torch.Tensor = model(**inputs).logits.double()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=pytest.mark.exhaustive) if one in ALIKE else one for one in FAMILIES]
)
def test_an_adapter_is_trained_and_merges_into_the_hubs_names(family: str, tmp_path: Path) -> None:
    done = aligned(family, tmp_path, "lora")
    from peft import PeftModel  # imports transformers, which must find torchvision's shim

    adapter = load_file(done.checkpoint / "adapter_model.safetensors")
    assert not any(TOWERS.search(name) or PROJECTORS.search(name) for name in adapter)
    modules = adapted_modules(load_model(tmp_path / "base"), LoraSettings()).paths
    assert len(adapter) == len(modules) * 2  # A and B
    assert all(value.abs().max() > 1e-3 for value in adapter.values())
    log = [json.loads(line) for line in (done.path / "train_log.jsonl").read_text().splitlines()]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and log[-1]["loss"] < 0.69 and len(log) == 2

    base, processor = load_model(tmp_path / "base"), load_processor(done.checkpoint)
    plain = logits(base, processor, tmp_path / "1.png")
    expected = logits(PeftModel.from_pretrained(base, done.checkpoint), processor, tmp_path / "1.png")
    assert (plain - expected).abs().max() > 0.01
    assert run(app, ["export", str(done.path), "-o", str(tmp_path / "merged")]) == 0
    assert inspect(tmp_path / "merged").kind == "full"
    found = logits(load_model(tmp_path / "merged"), processor, tmp_path / "1.png")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("base", "merged"))
    model_type = read_json(tmp_path / "merged" / "config.json")["model_type"]
    assert all(re.match(HUB[model_type], name) for name in after), sorted(after)
    assert all(torch.equal(value, before[name]) for name, value in after.items() if TOWERS.search(name))


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", MODERN)
def test_mfpo_is_trained_on_rejected_images(family: str, tmp_path: Path) -> None:
    """Its first step begins at the starting model: every reward is 0, those of the rejected images' branches, too."""
    export_full(*FAMILIES[family](), tmp_path / "base")
    data = str(tiny_pairs(tmp_path / "pairs", 6))
    train = {"epochs": 2, "batch_size": 2, "micro_batch_size": 2, "max_length": 512, "learning_rate": 0.01}
    request = AlignRequest("mfpo", str(tmp_path / "base"), tmp_path / "results", data=data, settings={"train": train})
    done = run_align(request)
    log = [json.loads(line) for line in (done.path / "train_log.jsonl").read_text().splitlines()]
    assert len(log) >= 2 and all(row["loss"] > 0 for row in log)
    assert all(abs(value) < 1e-3 for name, value in log[0].items() if name.startswith("reward_"))
    assert any(name.startswith("reward_") and abs(value) > 0 for name, value in log[-1].items())


@pytest.mark.exhaustive
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", MODERN)
def test_a_killed_training_is_resumed_to_the_same_weights(family: str, tuning: str, tmp_path: Path) -> None:
    export_full(*FAMILIES[family](), tmp_path / "base")
    base, pairs = tmp_path / "base", tiny_pairs(tmp_path / "pairs", 6)
    settings = {"tuning": tuning, "batch_size": 2, "micro_batch_size": 2, "max_length": 512}
    train(DPO(), job(base, pairs, tmp_path / "whole", **settings))
    with pytest.raises(KilledError):
        train(killed_at(DPO, 2), job(base, pairs, tmp_path / "killed", **settings))
    train(DPO(), job(base, pairs, tmp_path / "killed", resume=True, **settings))
    expected, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert resumed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=pytest.mark.exhaustive) if one in MODERN else one for one in FAMILIES]
)
def test_full_tuning_trains_all_but_the_tower(family: str, tmp_path: Path) -> None:
    done = aligned(family, tmp_path, "full")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", done.checkpoint))
    assert before.keys() == after.keys() and inspect(done.checkpoint).kind == "full"
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    frozen = {name for name in after if TOWERS.search(name) and not PROJECTORS.search(name)}
    assert frozen and not changed & frozen
    trained = {
        name for name in after.keys() - frozen if name != "image_newline" and not name.endswith("layer_scalar")
    }  # LLaVA-1.6's belongs to tiles that may be whole
    assert not trained - changed


def on_grid(family: str) -> bool:
    return family.startswith(("qwen", "glm"))


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_restart_behind_the_images_and_count_on_from_the_greatest(family: str, tmp_path: Path) -> None:
    model, processor = FAMILIES[family]()
    policy = Policy(model, processor, "lora", LoraSettings(), Savings(), bfloat16=False)
    encoder = Encoder(processor, [CHOSEN, REJECTED], 512, corrections=None)
    batch = policy.prepare(collate([encoder.encode(row) for row in examples(tmp_path)], [CHOSEN, REJECTED], 0))
    for block in batch.blocks:
        positions = block.position_ids if block.position_ids.ndim == 3 else block.position_ids[None]
        assert len(positions) == (3 if on_grid(family) else 1)
        for number, prefix in enumerate(block.prefixes):
            row = positions[:, number]
            following = int(row[:, :prefix].max()) + 1
            if on_grid(family):  # the grid takes as many positions as its longer side is long, and not one a token
                _, height, width = (block.image_inputs["image_grid_thw"][number] // 2).tolist()
                assert following == prefix - height * width + max(height, width)
            else:
                assert following == prefix
            causal = row.shape[1] - block.allowed.shape[2]
            starts = [
                place
                for place in range(prefix, row.shape[1])
                if block.allowed[number, 0, place - causal].sum() == prefix + 1
            ]
            assert starts and all(row[:, place].tolist() == [following] * len(row) for place in starts)
            assert row[:, starts[0] + 1].tolist() == [following + 1] * len(row)


@pytest.mark.parametrize("family", ["llava-v1.6", "qwen2.5-vl", "smolvlm"])
def test_checkpointing_changes_no_gradient_and_computes_none_in_the_tower(family: str, tmp_path: Path) -> None:
    export_full(*FAMILIES[family](), tmp_path / "base")
    gradients: list[dict[str, torch.Tensor]] = []
    for on in (False, True):
        train = TrainSettings.model_validate({"gradient_checkpointing": on, "max_length": 512, "lora": {"rank": 4}})
        job = AlignJob(str(tmp_path / "base"), "", tmp_path, train, tmp_path)
        started = Session(DPO(), job, examples(tmp_path), PartialState())
        tower = next(part for name, part in started.policy.plain.model.named_children() if TOWERS.search(name))
        graphs: list[bool] = []
        tower.register_forward_hook(
            lambda part, given, found, graphs=graphs: graphs.append(found.last_hidden_state.requires_grad)
        )
        model = started.policy.model.train()
        model(started.batch(list(started.encoded.values()))).sum().backward()
        assert graphs and not any(graphs)
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 28
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-5, rtol=1e-4)
    assert any(value.abs().max() > 1e-3 for value in gradients[0].values())


def test_an_image_that_the_processor_refuses_is_named(tmp_path: Path) -> None:
    picture = ImageRef(path=tiny_photograph(tmp_path / "thin.png", 0, (600, 2)))
    row = PreferenceExample("the thin one", "What is it?", {"original": picture}, {"chosen": "a", "rejected": "b"})
    with pytest.raises(BadInputError, match="600x2 pixels: absolute aspect ratio") as caught:
        Encoder(FAMILIES["qwen2.5-vl"]()[1], [CHOSEN, REJECTED], 512, corrections=None).encode(row)
    assert caught.value.where == "the thin one"


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "fuyu"})
    with pytest.raises(BadInputError, match="'fuyu' can be evaluated but not aligned") as caught:
        check_family(str(tmp_path))
    assert "qwen2_5_vl" in str(caught.value.remedy) and caught.value.where == str(tmp_path)


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_people_ask_for_are_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": family})
    with pytest.raises(BadInputError) as caught:
        check_family(str(tmp_path))
    assert REFUSED[family].models in caught.value.problem and REFUSED[family].reason in caught.value.problem


@pytest.mark.parametrize("family", CODE_FAMILIES)
@pytest.mark.parametrize(
    "command", [["align", "--method", "dpo"], ["eval", "--suite", "pope", "--backend", "transformers"]]
)
def test_families_of_code_are_refused_by_name(
    family: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "theirs" / "config.json", {"model_type": family, "auto_map": {"AutoConfig": "code.Theirs"}})
    save_file({"weight": torch.zeros(2)}, tmp_path / "theirs" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert run(app, [*command, "--model", "./theirs", "--data", "pocket"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    models, instead = CODE_FAMILIES[family]
    assert f"{models} {NEVER_RUN}" in said and (instead or "harness list models") in said
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"], "nothing is made"
    with pytest.raises(
        BadInputError, match="neither evaluated nor aligned"
    ):  # as for a name on the hub, whose config.json is read first
        family_of(family)


def test_the_table_of_families_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    from scripts.families_table import PAGE, with_table

    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run python scripts/families_table.py"
    assert run(app, ["list", "families", "--json"]) == 0
    listed = {row["name"]: row["can"] for row in json.loads(capsys.readouterr().out)}
    assert [name for name, can in listed.items() if can == "align, eval"] == list(ALIGNED)
    assert all(f"| `{name}` |" in page for name in listed) and all(family.models for family in ALIGNED.values())


def test_every_alias_can_be_aligned_and_the_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    families = {name: ref.family for name, ref in aliases().items() if ref.world is None}
    assert set(families.values()) <= set(ALIGNED)
    assert families["smolvlm-256m"] == "idefics3" and families["qwen2.5-vl-7b"] == "qwen2_5_vl"
    assert run(app, ["list", "models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["qwen2.5-vl-7b"]["about"].startswith("qwen2_5_vl: align, eval") and rows["pocket"]["aligned"]


SERVED = ("qwen2.5-vl", "llava-phi3")
"""Served in every run of the tests: a start of the engine each, and one of each kind of positions and products."""
NO_ADAPTERS = {"glm-4.6v", "llava-onevision"}
"""vLLM 0.32 takes no adapters of them."""
NOT_ON_CPU = {"aya-vision", "gemma3", "gemma4-whole", "qwen3-vl-moe", "qwen3.5", "qwen3.5-moe"}
"""vLLM 0.32 on a CPU gives Aya Vision other probabilities (`harness verify` says so), lets an image's tokens not see each other, and
computes linear attention in bfloat16 only. It does not load Qwen3-VL's experts as transformers saves them."""


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
@pytest.mark.parametrize(
    "family",
    [
        name if name in SERVED else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in FAMILIES
        if name not in NOT_ON_CPU | NO_ADAPTERS
    ],
)
def test_vllm_serves_the_adapter_as_it_was_trained(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = aligned(family, tmp_path, "lora")
    capsys.readouterr()  # what training's libraries print when they are first imported
    assert run(app, ["verify", str(done.path), "--json", "--probes", "4", "--backend", "vllm"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["same"] and record["adapter"]


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(NO_ADAPTERS))
def test_adapters_that_vllm_does_not_take_are_refused_before_it_starts(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = aligned(family, tmp_path, "lora")
    assert run(app, ["verify", str(done.path), "--backend", "vllm"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "vLLM serves no adapters of the family" in said and "harness export RUN -o DIR" in said and "log:" not in said
    )
