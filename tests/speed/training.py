"""How fast DPO and MFPO train beside TRL's `DPOTrainer`, at the proportions of LLaVA-1.5 and 1.6, with a small language model.

Each side runs in a process of its own (`python -m tests.speed.training SIDE IMAGE_TOKENS PAIRS`), which prints its figures as JSON: both
train the same LoRA on the same pairs in float32, two epochs, the model in memory before the clock starts.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.speed.measures import ROOT, Figure

WORDS, PROMPT, RESPONSE = 32_000, 60, 120
LAYERS, WIDTH = 6, 512
BATCH, EPOCHS, RANK = 4, 2, 16
SHAPES = {576: 16, 2880: 4}
"""Image tokens of LLaVA-1.5 and LLaVA-1.6, and the pairs to measure on."""


TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %} {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} {% endif %}"
)


def build(image_tokens: int) -> tuple[Any, Any]:
    """A LLaVA-1.5 or LLaVA-1.6 (four tiles and the whole picture) with random weights, and its processor."""
    from harness.models import torchvision_shim

    torchvision_shim.apply()
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<pad>", "</s>", "<unk>", "<image>", *(f"w{number}" for number in range(WORDS - 4))]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=336, patch_size=14
    )
    language = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    common = {"patch_size": 14, "vision_feature_select_strategy": "default", "image_token": "<image>",
              "num_additional_image_tokens": 1, "chat_template": TEMPLATE}  # fmt: skip
    torch.manual_seed(0)
    side = {"height": 336, "width": 336}
    if image_tokens == 576:
        model = transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(vision_config=vision, text_config=language, image_token_index=3)
        )
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=side)
        return model, transformers.LlavaProcessor(image_processor=images, tokenizer=tokenizer, **common)
    grid = [[672, 672]]
    model = transformers.LlavaNextForConditionalGeneration(
        transformers.LlavaNextConfig(
            vision_config=vision, text_config=language, image_token_index=3, image_grid_pinpoints=grid
        )
    )
    tiles = transformers.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size=side, image_grid_pinpoints=grid)
    return model, transformers.LlavaNextProcessor(image_processor=tiles, tokenizer=tokenizer, **common)


def examples(image_tokens: int, count: int) -> list[Any]:
    """Pairs of random words about random pictures, with a rejected picture each."""
    import numpy as np
    from PIL import Image

    from harness.types import ImageRef, PreferenceExample

    rng = np.random.default_rng(0)
    side = 336 if image_tokens == 576 else 672

    def image(name: str) -> ImageRef:
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "PNG", compress_level=1)
        return ImageRef(data=stream.getvalue(), name=name)

    def text(words: int) -> str:
        return " ".join(f"w{number}" for number in rng.integers(0, WORDS - 4, words))

    return [
        PreferenceExample(
            str(number),
            text(PROMPT),
            {"original": image(f"{number}"), "rejected": image(f"{number}, rejected")},
            {"chosen": text(RESPONSE - 1), "rejected": text(RESPONSE - 1)},
        )
        for number in range(count)
    ]


def ours(method: str, image_tokens: int, count: int, folder: Path) -> dict[str, float]:
    """Seconds of the first epoch with the reference pass, and of the second."""
    from accelerate import PartialState

    from aligners.base import AlignJob, Stage
    from aligners.dpo import DPO
    from aligners.mfpo import MFPO
    from aligners.trainer import _Run
    from harness.config import LoraSettings, TrainSettings
    from harness.models import export_full

    model, processor = build(image_tokens)
    export_full(model, processor, folder / "base")
    del model
    train = TrainSettings(
        batch_size=BATCH,
        micro_batch_size=BATCH,
        epochs=EPOCHS,
        lora=LoraSettings(rank=RANK, alpha=RANK),
        precision="float32",
    )
    data = examples(image_tokens, count)
    aligner = {"dpo": DPO, "mfpo": MFPO}[method]()
    job = AlignJob(str(folder / "base"), "", folder, train, folder / "cache")
    before = peak()
    start = time.perf_counter()
    run = _Run(aligner, job, data, PartialState())
    built = time.perf_counter()
    run.train([Stage("all", data)])
    end = time.perf_counter()
    rows = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    second = sum(BATCH / row["examples_per_second"] for row in rows[len(rows) // 2 :])
    return {"first": end - start - second, "second": second, "build": built - start, "memory": peak() - before}


def trl(image_tokens: int, count: int, folder: Path) -> dict[str, float]:
    """Seconds of an epoch of TRL's trainer: its epochs are alike."""
    from harness.models import torchvision_shim

    torchvision_shim.apply()  # before anything imports transformers
    from datasets import Dataset, Image
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from aligners.families import FAMILIES
    from harness.models import prompt_text

    model, processor = build(image_tokens)
    data = Dataset.from_list(
        [
            {
                "images": [{"bytes": one.images["original"].read(), "path": None}],
                "prompt": prompt_text(processor, one.prompt),
                **{name: f"{one.responses[name]} </s>" for name in ("chosen", "rejected")},
            }
            for one in examples(image_tokens, count)
        ]
    ).cast_column("images", [Image()])
    settings = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        max_steps=count // BATCH,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=FAMILIES["llava"].lora_targets, task_type="CAUSAL_LM")
    before = peak()
    trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=processor, peft_config=lora)
    start = time.perf_counter()
    trainer.train()
    return {"first": time.perf_counter() - start, "memory": peak() - before}


def peak() -> float:
    """The process's largest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(side: str, image_tokens: int, count: int) -> dict[str, float]:
    """The figures of one side, from a process of its own."""
    command = [sys.executable, "-m", "tests.speed.training", side, str(image_tokens), str(count)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def training() -> Iterator[Figure]:
    """DPO against TRL, MFPO against DPO, at two shapes."""
    for image_tokens, count in SHAPES.items():
        theirs, dpo, mfpo = (measured(side, image_tokens, count) for side in ("trl", "dpo", "mfpo"))
        shape = f"{image_tokens:,} image tokens"
        yield Figure(f"DPO, {shape}: first epoch, times as fast as TRL", theirs["first"] / dpo["first"], "x", 4, True)
        yield Figure(f"DPO, {shape}: second epoch, times as fast as TRL", theirs["first"] / dpo["second"], "x", 6, True)
        yield Figure(f"DPO, {shape}: memory above the weights, of TRL's", dpo["memory"] / theirs["memory"], "x", 0.5)
        yield Figure(f"MFPO step, {shape}, against a DPO step", mfpo["second"] / dpo["second"], "x", 1.7)
        yield Figure(f"DPO, {shape}: seconds a pair", dpo["second"] / count, "s", 60)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    side, tokens, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as name:
        found = trl(tokens, number, Path(name)) if side == "trl" else ours(side, tokens, number, Path(name))
    print(json.dumps(found))
