"""Methods beside TRL's `DPOTrainer`: same model, data and settings, the same losses and rewards over up to 20 steps."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import PartialState

from aligners.base import Aligner, Stage
from aligners.dpo import DPO, DPOSettings
from aligners.mpo import MPO, MPOSettings
from aligners.training.job import AlignJob
from aligners.training.microbatches import MicroBatches
from aligners.training.run import RunFacts, train_stages
from aligners.training.session import Session
from harness.core.config import TrainSettings
from harness.core.types import PreferenceExample
from harness.models import prompt_text
from harness.records.training_files import DataSummary
from tests.aligners.training.test_branches import picture
from tests.tiny import tiny_llava

pytest.importorskip("trl")
STEPS, BATCH, MICRO, BETA, RATE = 20, 8, 4, 0.3, 1e-3


def pairs(steps: int) -> list[PreferenceExample]:
    """As many pairs as the steps take, none twice."""
    from harness.worlds.pocket import text
    from harness.worlds.pocket.scenes import generator, make_scenes

    rng = generator("trl", 0)
    made = []
    for number, scene in enumerate(make_scenes(0, "preference", steps * BATCH)):
        said = [text.write_caption(one, int(rng.integers(text.STYLES))) for one in
                (text.faithful_mentions(scene), text.biased_mentions(scene, rng))]  # fmt: skip
        made.append(
            PreferenceExample(
                str(number),
                "Describe this image." if number % 3 else "what is this",
                {"original": picture(number, (96, 96))},
                {"chosen": said[0], "rejected": f"{said[1]} There is also a fork."},
            )
        )
    return made


def ours(
    aligner: Aligner[Any], base: Path, examples: list[PreferenceExample], output: Path
) -> tuple[dict[str, list[float]], list[int]]:
    """Loss and rewards of every step, and the order in which the examples were taken."""
    train = TrainSettings(
        learning_rate=RATE, batch_size=BATCH, micro_batch_size=MICRO, tuning="full", max_length=512, precision="float32"
    )
    job = AlignJob(str(base), "", output, train, output / "cache")
    run = Session(aligner, job, examples, PartialState())
    train_stages(run, [Stage("all", examples)], RunFacts(DataSummary(fingerprint="", examples=len(examples))))
    rows = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    batches = MicroBatches(
        run, [run.encoded[one.id] for one in examples], len(examples) // BATCH, MICRO, BATCH // MICRO, (0, 1)
    )
    order = [int(one.id) for index in range(len(batches)) for one in batches.chosen(index)[0]]
    return {name: [row[name] for row in rows] for name in ("loss", "reward_chosen", "reward_rejected")}, order


def trls(
    base: Path, examples: list[PreferenceExample], output: Path, micro: int, **more: Any
) -> dict[str, list[float]]:
    from datasets import Dataset, Image
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer

    from harness.models import load_model, load_processor

    steps = len(examples) // BATCH
    model, processor = load_model(str(base), "float32"), load_processor(str(base))
    reference = copy.deepcopy(model)
    model.model.vision_tower.requires_grad_(False)
    end = processor.tokenizer.eos_token
    data = Dataset.from_list(
        [
            {
                "images": [{"bytes": encoded.images["original"].read(), "path": None}],
                "prompt": prompt_text(processor, encoded.prompt),
                "chosen": encoded.responses["chosen"] + end,
                "rejected": encoded.responses["rejected"] + end,
            }
            for encoded in examples
        ]
    ).cast_column("images", [Image()])
    seen: dict[str, list[float]] = {"loss": []}

    class Recording(DPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            seen["loss"].append(float(loss[0] if isinstance(loss, tuple) else loss))
            return loss

    settings = DPOConfig(
        output_dir=str(output),
        beta=BETA,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.1 * steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=BATCH // micro,
        max_steps=steps,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    trainer = Recording(model, ref_model=reference, args=settings, train_dataset=data, processing_class=processor)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "rewards/chosen" in row]
    parts = np.array(seen["loss"]).reshape(steps, -1)
    return {
        "loss": list(parts.mean(1)),
        "reward_chosen": [row["rewards/chosen"] for row in rows],
        "reward_rejected": [row["rewards/rejected"] for row in rows],
    }


METHODS: dict[str, tuple[Aligner[Any], int, int, dict[str, Any]]] = {
    "dpo": (DPO(DPOSettings(beta=BETA)), STEPS, MICRO, {}),
    "ipo": (DPO(DPOSettings(beta=BETA, loss="ipo")), 6, MICRO, {"loss_type": ["ipo"]}),
    # TRL 1 has no shift, and divides the likelihood by the tokens of a micro-batch: ours for one pair.
    "mpo": (
        MPO(MPOSettings(beta=BETA, shift="none")),
        6,
        1,
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    ),
}
"""The method, its steps, TRL's micro-batch and TRL's settings."""


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_losses_and_rewards_are_trls(name: str, tmp_path: Path) -> None:
    aligner, steps, micro, settings = METHODS[name]
    base = tiny_llava(tmp_path / "base")
    examples = pairs(steps)
    (tmp_path / "ours").mkdir()
    trained, order = ours(aligner, base, examples, tmp_path / "ours")
    assert sorted(order) == list(range(steps * BATCH))
    expected = trls(base, [examples[number] for number in order], tmp_path / "trl", micro, **settings)
    assert len(trained["loss"]) == len(expected["loss"]) == steps
    assert abs(trained["loss"][-1] - trained["loss"][0]) > 0.05, "nothing was learned, so nothing was compared"
    for kind, values in expected.items():
        np.testing.assert_allclose(trained[kind], values, atol=1e-4, rtol=1e-4, err_msg=kind)
