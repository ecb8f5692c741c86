"""The small LLaVA: architecture, tokenizer and processor, in the same classes as the full-size models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from harness.worlds.pocket.scenes import SIDE

PATCH = 12
GRID = SIDE // PATCH
IMAGE_TOKENS = GRID * GRID
PAD, END, IMAGE = "<pad>", "</s>", "<image>"
VOCABULARY = 700
TEMPLATE = (
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
    "{%- if message['content'] is string -%}USER: {{ message['content'] }}\n"
    "{%- else -%}{%- for part in message['content'] if part['type'] == 'image' -%}<image>\n{% endfor -%}"
    "USER: {% for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}{{ '\n' }}{%- endif -%}"
    "{%- else -%}ASSISTANT:\n{% if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}</s>"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}ASSISTANT:\n{% endif -%}"
)
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def build_tokenizer(corpus: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer trained on the world's own text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, END, IMAGE],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: Any) -> Any:
    """LLaVA's own processor around this tokenizer, for pictures of SIDE pixels."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build_model(tokenizer: Any, seed: int) -> Any:
    """`LlavaForConditionalGeneration` with random weights, about 1.6 M parameters.

    As in LLaVA-1.5 the features are those of the tower's last layer but one. Word embeddings are tied, and the tower is trained on
    them as labels (`harness.worlds.pocket.training`): patches, questions and answers then share one set of directions.
    """
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=96,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=True,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    # Eager attention is faster than the fused kernel at this size on a CPU, in bfloat16 by a factor of two.
    model.set_attn_implementation("eager")
    model.generation_config.update(
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        do_sample=False,
    )
    return model


@contextlib.contextmanager
def without_last_layer(tower: Any) -> Iterator[None]:
    """Context in which the vision tower ends one layer early: LLaVA uses the features before the last layer, which is not needed."""
    layers = tower.encoder.layers
    tower.encoder.layers = layers[:-1]
    try:
        yield
    finally:
        tower.encoder.layers = layers


def text_states(model: Any, embedded: Any, mask: Any, positions: Any) -> Any:
    """Last hidden states of the text after a picture: the last layer computes only these, with the picture's keys and values.

    Args:
        model: the language model.
        embedded: [rows, IMAGE_TOKENS + length, width], the picture first.
        mask: where a position may look, bool [rows, 1, IMAGE_TOKENS + length, IMAGE_TOKENS + length].
        positions: [rows, IMAGE_TOKENS + length].

    Returns:
        [rows, length, width].
    """
    import torch
    from transformers import DynamicCache
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    # In float32 these would convert queries, keys and products to float32, and autocast would convert them back.
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else embedded.dtype
    rotary = tuple(one.to(kind) for one in model.rotary_emb(embedded, position_ids=positions))
    mask = torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, torch.finfo(kind).min)
    for layer in model.layers[:-1]:
        embedded = layer(embedded, attention_mask=mask, position_embeddings=rotary)
    picture, words = embedded.split([IMAGE_TOKENS, embedded.shape[1] - IMAGE_TOKENS], 1)
    of_picture, of_words = zip(*(one.split([IMAGE_TOKENS, words.shape[1]], 1) for one in rotary), strict=True)
    last = model.layers[-1]
    attention, normed = last.self_attn, last.input_layernorm(picture)
    keys, values = (
        project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project in (attention.k_proj, attention.v_proj)
    )
    seen = DynamicCache(config=model.config)
    seen.update(apply_rotary_pos_emb(keys, keys, *of_picture)[1], values, attention.layer_idx)
    words = last(words, attention_mask=mask[:, :, IMAGE_TOKENS:], position_embeddings=of_words, past_key_values=seen)
    return model.norm(words)


def pixels(pictures: Any) -> Any:
    """Normalised pixel values [n, 3, SIDE, SIDE] float32 of uint8 pictures [n, SIDE, SIDE, 3], as the processor makes them."""
    import numpy as np
    import torch

    values = (pictures.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
