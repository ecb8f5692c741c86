"""Small models of the real architectures with random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def tiny_photograph(path: Path, seed: int, size: tuple[int, int] = (72, 72)) -> Path:
    """A picture of coloured noise."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def large_pope(folder: Path, items: int, side: int) -> Path:
    """A POPE below `data` with an image of its own for every question. One file has all their names: on the disk they are one."""
    import json
    import os

    images = folder / "data" / "pope" / "images"
    images.mkdir(parents=True)
    first = tiny_photograph(images / "0.png", 0, (side, side))
    rows = []
    for number in range(items):
        if number:
            os.link(first, images / f"{number}.png")
        text, label = f"Is there a dog in the image, {number}?", ("yes", "no")[number % 2]
        rows.append(json.dumps({"question_id": number, "image": f"{number}.png", "text": text, "label": label}) + "\n")
    (folder / "data" / "pope" / "coco_pope_random.json").write_text("".join(rows))
    return folder


def decompression_bomb(path: Path, side: int = 20_000) -> Path:
    """A PNG of some kilobytes that says it has `side` squared pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def tiny_parts(seed: int = 0) -> tuple[Any, Any]:
    """Model and processor of the pocket world's architecture, untrained."""
    from harness.worlds.pocket import network, text
    from harness.worlds.pocket.scenes import generator, make_scenes

    rng = generator("tiny", seed)
    scenes = make_scenes(seed, "train", 60)
    corpus = [
        text.write_caption(text.biased_mentions(scene, rng), style) for scene in scenes for style in range(text.STYLES)
    ]
    tokenizer = network.build_tokenizer([*corpus, "USER: what is this\nASSISTANT:\n"])
    return network.build_model(tokenizer, seed), network.build_processor(tokenizer)


def tiny_llava(folder: Path, seed: int = 0) -> Path:
    """The same, exported to a folder."""
    from harness.models import export_full

    model, processor = tiny_parts(seed)
    export_full(model, processor, folder)
    return folder


def tiny_llava_576(folder: Path) -> Path:
    """A small LLaVA-1.5 with the full-size one's 576 image tokens (336 pixels, patches of 14), exported to a folder."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from harness.models import export_full
    from harness.worlds.pocket import network

    tokenizer = tiny_parts()[1].tokenizer
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
        projection_dim=64,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=tokenizer.convert_tokens_to_ids(network.IMAGE),
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            image_seq_length=576,
        )
    ).eval()
    images = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token=network.IMAGE,
        num_additional_image_tokens=1,
        chat_template=network.TEMPLATE,
    )
    export_full(model, processor, folder)
    return folder


def tiny_pairs(folder: Path, count: int) -> Path:
    """So many pairs of the drawn world, with pictures and boxes, rejected responses sampled from `tiny_parts`: a Parquet file."""
    from harness.worlds.pocket.preferences import make_pairs, sample_base, write_preferences
    from harness.worlds.pocket.training import Base

    folder.mkdir(parents=True, exist_ok=True)
    model, processor = tiny_parts()
    write_preferences(make_pairs(sample_base(Base(model.eval(), processor), 0, count), 0), folder)
    return folder / "rlaif-v.parquet"


def with_standard(pairs: Path, path: Path | None = None) -> Path:
    """The pairs of a Parquet file with a reference answer and weights of some characters, in their file or in another one."""
    import pyarrow.parquet as pq

    table = pq.read_table(pairs)
    chosen = table.column("chosen").to_pylist()
    table = table.append_column("standard_response", [[f"There is this: {text}" for text in chosen]])
    pq.write_table(table.append_column("chosen_weights", [[[[0.0, 2.0, 2.5]] for _ in chosen]]), path or pairs)
    return path or pairs


def tiny_llava_next(seed: int = 0) -> tuple[Any, Any]:
    """A small LLaVA-1.6: images in tiles by grid pinpoints."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    from harness.worlds.pocket import network

    _, processor = tiny_parts(seed)
    tokenizer = processor.tokenizer
    pinpoints = [[24, 48], [48, 24], [48, 48]]
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=24,
        patch_size=12,
        projection_dim=32,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,  # heads of 32: vLLM's attention on CPUs takes no narrower ones
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=tokenizer.convert_tokens_to_ids(network.IMAGE),
            image_grid_pinpoints=pinpoints,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    ).eval()
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=pinpoints
    )
    return model, LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=12,
        vision_feature_select_strategy="default",
        image_token=network.IMAGE,
        num_additional_image_tokens=1,
        chat_template=network.TEMPLATE,
    )
