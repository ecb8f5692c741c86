"""How fast DPO and MFPO train beside TRL's `DPOTrainer`, at the proportions of LLaVA-1.5 and 1.6.

With a small language model in float32 on CPUs, and with one of LLaVA's 7 B in bfloat16 on a GPU; random weights. Each side runs in a
process of its own (`python -m tests.speed.training SIDE IMAGE_TOKENS PAIRS [small|7b]`), which prints its figures as JSON: both train the
same LoRA on the same pairs, two epochs, the model in memory before the clock starts.
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.speed.measures import ROOT, Figure

WORDS, PROMPT, RESPONSE = 32_000, 60, 120
EPOCHS, RANK = 2, 16


@dataclass(frozen=True)
class Size:
    """A model's size, and what it is measured on.

    Attributes:
        language: the language model's configuration.
        tower: the vision tower's.
        precision: that both sides train in; frozen weights are held in it.
        batch: pairs a step, in one pass.
        pairs: by image tokens (LLaVA-1.5's and LLaVA-1.6's), the pairs to measure on.
    """

    language: Mapping[str, int]
    tower: Mapping[str, int]
    precision: str
    batch: Mapping[int, int]
    pairs: Mapping[int, int]


SIZES = {
    "small": Size(
        {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8},
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2},
        "float32",
        {576: 4, 2880: 4},
        {576: 16, 2880: 4},
    ),
    "7b": Size(
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        "bfloat16",
        {576: 4, 2880: 1},  # TRL keeps what 6,000 tokens need for the way back: 50 GB beside the weights
        {576: 64, 2880: 16},
    ),
}


TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %} {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} {% endif %}"
)


def build(image_tokens: int, size: Size) -> tuple[Any, Any]:
    """A LLaVA-1.5 or LLaVA-1.6 (four tiles and the whole picture) with random weights, and its processor."""
    from harness.models import devices, torchvision_shim

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
    vision = transformers.CLIPVisionConfig(**size.tower, image_size=336, patch_size=14)
    language = transformers.LlamaConfig(
        **size.language,
        num_key_value_heads=size.language["num_attention_heads"],
        vocab_size=WORDS,
        max_position_embeddings=8192,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    common = {"patch_size": 14, "vision_feature_select_strategy": "default", "image_token": "<image>",
              "num_additional_image_tokens": 1, "chat_template": TEMPLATE}  # fmt: skip
    torch.manual_seed(0)
    side = {"height": 336, "width": 336}

    def model_of(kind: Any, config: Any) -> Any:
        # Where they are trained, so that 7 B random numbers take a second and not minutes.
        with torch.device(devices.usual()):
            return kind._from_config(config, dtype=getattr(torch, size.precision))

    if image_tokens == 576:
        config = transformers.LlavaConfig(vision_config=vision, text_config=language, image_token_index=3)
        model = model_of(transformers.LlavaForConditionalGeneration, config)
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=side)
        return model, transformers.LlavaProcessor(image_processor=images, tokenizer=tokenizer, **common)
    grid = [[672, 672]]
    config = transformers.LlavaNextConfig(
        vision_config=vision, text_config=language, image_token_index=3, image_grid_pinpoints=grid
    )
    model = model_of(transformers.LlavaNextForConditionalGeneration, config)
    tiles = transformers.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size=side, image_grid_pinpoints=grid)
    return model, transformers.LlavaNextProcessor(image_processor=tiles, tokenizer=tokenizer, **common)


def examples(image_tokens: int, count: int) -> list[Any]:
    """Pairs of random words about random pictures, with a rejected picture each."""
    import numpy as np
    from PIL import Image

    from harness.core.types import ImageRef, PreferenceExample

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


def ours(
    method: str, image_tokens: int, count: int, size: Size, folder: Path, base: Path, auto: bool = False
) -> dict[str, float]:
    """Seconds of the first epoch with the reference pass, and of the second; tokens of the second, padding included.

    Args:
        method: name of the aligner.
        image_tokens: of a picture.
        count: pairs.
        size: the model's.
        folder: for the run.
        base: for the model; made if it does not exist.
        auto: whether the trainer chooses how many pairs it computes together, from the free memory.
    """
    from harness.models import torchvision_shim

    torchvision_shim.apply()
    import peft  # noqa: F401, TRL's side has imported all of it when its clock starts
    from accelerate import PartialState
    from transformers import Trainer  # noqa: F401

    from aligners.base import Stage
    from aligners.dpo import DPO
    from aligners.mfpo import MFPO
    from aligners.training import session as setting_up
    from aligners.training.families import possible_savings
    from aligners.training.job import AlignJob
    from aligners.training.memory.peak import Peak
    from aligners.training.run import RunFacts, train_stages
    from harness.core.config import LoraSettings, TrainSettings
    from harness.models import devices, export_full, fingerprint
    from harness.models.pretrained import configuration
    from harness.records.training_files import DataSummary

    made = not base.exists()
    if made:
        export_full(*build(image_tokens, size), base)
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    batch = count if auto else size.batch[image_tokens]
    train = TrainSettings(
        batch_size=batch,
        micro_batch_size="auto" if auto else batch,
        epochs=EPOCHS,
        lora=LoraSettings(rank=RANK, alpha=RANK),
        precision=size.precision,
    )
    begun = time.perf_counter()
    fingerprint(base)  # once per base model: kept by name, size and time of its files
    hashing = time.perf_counter() - begun
    data = examples(image_tokens, count)
    aligner = {"dpo": DPO, "mfpo": MFPO}[method]()
    job = AlignJob(str(base), "", folder, train, folder / "cache")
    held = forget_peak()
    before = max(held, weights) if made else held + weights  # a process that made the model has had it in memory
    load, loading = setting_up.load_model, 0.0

    def timed_load(*arguments: Any, **options: Any) -> Any:
        nonlocal loading
        begun = time.perf_counter()
        loaded = load(*arguments, **options)
        loading = time.perf_counter() - begun
        return loaded

    setting_up.load_model = timed_load  # type: ignore[attr-defined]
    start = time.perf_counter()
    session = setting_up.Session(aligner, job, data, PartialState())
    built = time.perf_counter()
    savings = possible_savings(configuration(job.model), train.savings)
    step = session.step.train.model_copy(update={"savings": savings})
    examined = Peak.of_examples(aligner, job.model, step, session.encoded.values(), devices.has_accelerator())
    predicted = examined.of(step, step.micro).total
    train_stages(session, [Stage("all", data)], RunFacts(DataSummary(fingerprint="", examples=len(data))))
    end = time.perf_counter()
    rows = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    later = rows[len(rows) // 2 :]
    second = sum(batch / row["examples_per_second"] for row in later)
    tokens = sum(batch * row["tokens_per_second"] / row["examples_per_second"] for row in later)
    return {
        "first": end - start - second - loading,
        "second": second,
        "build": built - start - loading,
        "loading": loading,
        "hashing": hashing,
        "steps": sum(batch / row["examples_per_second"] for row in rows),
        "memory": peak() - before,
        "tokens": tokens,
        "peak": peak(),
        "predicted": predicted,
        "together": step.micro,
        "again": float(bool(step.gradient_checkpointing)),
    }


def trl(image_tokens: int, count: int, size: Size, folder: Path) -> dict[str, float]:
    """Seconds of an epoch of TRL's trainer. On a CPU its epochs are alike; on a GPU the first one also loads kernels, so two are timed."""
    from harness.models import torchvision_shim

    torchvision_shim.apply()  # before anything imports transformers
    from datasets import Dataset, Image
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from aligners.training.adapters import adapted_modules
    from harness.core.config import LoraSettings
    from harness.models import devices, prompt_text

    model, processor = build(image_tokens, size)
    batch = size.batch[image_tokens]
    data = Dataset.from_list(
        [
            {
                "images": [{"bytes": encoded.images["original"].read(), "path": None}],
                "prompt": prompt_text(processor, encoded.prompt),
                **{name: f"{encoded.responses[name]} </s>" for name in ("chosen", "rejected")},
            }
            for encoded in examples(image_tokens, count)
        ]
    ).cast_column("images", [Image()])
    epochs = EPOCHS if devices.has_accelerator() else 1
    ends: list[float] = []

    class AfterEachEpoch(TrainerCallback):
        """Notes the time."""

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step % (count // batch) == 0:
                _wait_for_gpu()
                ends.append(time.perf_counter())

    settings = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        max_steps=epochs * (count // batch),
        max_length=None,
        bf16=size.precision == "bfloat16",
        use_cpu=not devices.has_accelerator(),
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=adapted_modules(model, LoraSettings()).pattern, task_type="CAUSAL_LM"
    )
    before = forget_peak()
    trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=processor, peft_config=lora)
    trainer.add_callback(AfterEachEpoch())
    start = time.perf_counter()
    trainer.train()
    return {
        "first": ends[0] - start,
        "second": ends[-1] - (ends[-2] if epochs > 1 else start),
        "memory": peak() - before,
    }


def _wait_for_gpu() -> None:
    """Until the GPU has done what it was given; a CPU has."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak() -> float:
    """The most memory that there has been, in bytes: the GPU's, or the process's."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> float:
    """What memory is counted from: on a GPU what is held now; a process's largest cannot be taken back."""
    import gc

    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    return peak()


def product_rate() -> float:
    """Operations a second in one large product of bfloat16 matrices on this GPU: the most that a model can have of it."""
    import torch

    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for turns in (3, 20):  # the first are for its clock
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(turns):
            left @ right
        torch.cuda.synchronize()
    return turns * 2 * 8192**3 / (time.perf_counter() - start)


def operations(tokens: float, pairs: int, responses: int, size: Size) -> float:
    """What a frozen language model with adapters needs for so many tokens: a product forwards and one backwards a weight.

    Attention's own products, the adapters' and the tower's are left out, so the utilisation that follows is a lower bound.

    Args:
        tokens: of all rows.
        pairs: examples.
        responses: responses of an example whose tokens meet the vocabulary.
        size: the model's.
    """
    width, inner, layers = (size.language[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    return 4 * (tokens * layers * (4 * width**2 + 3 * width * inner) + pairs * responses * RESPONSE * width * WORDS)


def measured(side: str, image_tokens: int, count: int, size: str, base: Path) -> dict[str, float]:
    """The figures of one side, from a process of its own; `base` is where our sides have their model."""
    command = [sys.executable, "-m", "tests.speed.training", side, str(image_tokens), str(count), size, str(base)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    line = done.stdout.splitlines()[-1]
    print(side, image_tokens, count, size, line, file=sys.stderr)  # a later side may fail
    result: dict[str, float] = json.loads(line)
    return result


def training() -> Iterator[Figure]:
    """DPO against TRL, MFPO against DPO, at two shapes."""
    for image_tokens in SIZES["small"].pairs:
        with tempfile.TemporaryDirectory() as name:
            yield from _beside_trl("small", image_tokens, (4, 6), Path(name) / "base")


def on_gpu() -> Iterator[Figure]:
    """The same at 7 B on a GPU, with the share of its products' speed that is used, tokens a second and peak memory."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("make speed ARGS=gpu: there is no GPU here")
    most = product_rate()
    for image_tokens in SIZES["7b"].pairs:
        with tempfile.TemporaryDirectory() as name:
            base = Path(name) / "base"
            yield from _beside_trl("7b", image_tokens, (1.6, 2.2), base, most)
            if image_tokens == 576:
                yield from _chosen_by_memory(image_tokens, base)


def _chosen_by_memory(image_tokens: int, base: Path) -> Iterator[Figure]:
    """What `train.micro_batch_size=auto` makes of a batch of 64 pairs, and how near the predicted peak of memory is."""
    import torch

    count = SIZES["7b"].pairs[image_tokens]
    chosen = measured("auto", image_tokens, count, "7b", base)
    shape = f"DPO, 7b, {image_tokens:,} image tokens, batch of {count}, micro_batch_size=auto"
    yield Figure(f"{shape}: pairs together", chosen["together"], "pairs")
    yield Figure(f"{shape}: peak, of the GPU's memory", 100 * chosen["peak"] / torch.cuda.mem_get_info()[1], "%", 100)
    yield Figure(f"{shape}: predicted peak, of the measured", chosen["predicted"] / chosen["peak"], "x")
    yield Figure(f"{shape}: seconds a pair", chosen["second"] / count, "s")


def _beside_trl(
    name: str, image_tokens: int, bounds: tuple[float, float], base: Path, most: float | None = None
) -> Iterator[Figure]:
    """The figures of one shape.

    Args:
        name: the model's size.
        image_tokens: of a picture.
        bounds: how many times as fast as TRL's DPO ours is to be in the first epoch, and in the second.
        base: where our sides have their model.
        most: operations a second that the GPU can do, where what is used of them is wanted.
    """
    size = SIZES[name]
    count = size.pairs[image_tokens]
    # TRL last: where its step does not fit into the GPU, our figures have been printed.
    dpo, mfpo, theirs = (measured(side, image_tokens, count, name, base) for side in ("dpo", "mfpo", "trl"))
    shape = f"{name}, {image_tokens:,} image tokens"
    for epoch, bound in zip(("first", "second"), bounds, strict=True):
        ratio = theirs[epoch] / dpo[epoch]
        yield Figure(f"DPO, {shape}: {epoch} epoch, times as fast as TRL", ratio, "x", bound, at_least=True)
    yield Figure(f"DPO, {shape}: memory above the weights, of TRL's", dpo["memory"] / theirs["memory"], "x", 0.5)
    yield Figure(f"MFPO step, {shape}, against a DPO step", mfpo["second"] / dpo["second"], "x", 1.7)
    for method, side, responses in (("DPO", dpo, 2), ("MFPO", mfpo, 3)):
        yield Figure(f"{method}, {shape}: seconds a pair", side["second"] / count, "s")
        yield Figure(f"{method}, {shape}: tokens a second", side["tokens"] / side["second"], "tokens/s")
        yield Figure(f"{method}, {shape}: memory above the weights", side["memory"] / 2**30, "GiB")
        ratio = side["predicted"] / side["peak"]
        yield Figure(f"{method}, {shape}: predicted peak, of the measured", ratio, "x")
        if most is not None:
            used = operations(side["tokens"], count, responses, size) / side["second"] / most
            yield Figure(f"{method}, {shape}: of the GPU's {most / 1e12:.0f} TFLOP/s", 100 * used, "%")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    side, tokens, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chosen = SIZES[sys.argv[4] if len(sys.argv) > 4 else "small"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = Path(sys.argv[5]) if len(sys.argv) > 5 else folder / "base"
        if side == "trl":
            figures = trl(tokens, number, chosen, folder)
        else:
            method = "dpo" if side == "auto" else side
            figures = ours(method, tokens, number, chosen, folder, base, auto=side == "auto")
    print(json.dumps(figures))
