"""Small models with random weights whose language model, tower or template is another one than the families' usual.

Windows are shorter than the rows that the tests make, so that a trainer that does not know of them is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.models import torchvision_shim
from tests.tiny import tiny_parts
from tests.tiny_families import _byte_tokenizer

WINDOW = 24
"""Positions that a layer with a window sees: fewer than a picture's tokens, in every model here."""
BOS = "<s>"
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}[/INST]{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}"
    "{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _transformers() -> Any:
    torchvision_shim.apply()
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers


def _says_bos(tokenizer: Any, bos: str = BOS) -> Any:
    """Let a tokenizer put its first token before every text, as LLaMA's, Mistral's and Gemma's do."""
    from tokenizers import processors

    tokenizer.bos_token = bos
    number = tokenizer.convert_tokens_to_ids(bos)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, number)]
    )
    return tokenizer


def tiny_llava_with(kind: str, **text: Any) -> tuple[Any, Any]:
    """LLaVA-1.5 with another language model: the 36 image tokens of the pocket world's."""
    transformers = _transformers()
    first, processor = tiny_parts()
    tokenizer = processor.tokenizer
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    language = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **TEXT, **ends, **text)
    config = type(first.config)(**{**first.config.to_dict(), "text_config": language, "tie_word_embeddings": False})
    model = transformers.LlavaForConditionalGeneration(config).eval()
    model.generation_config.update(**ends, do_sample=False)
    return model, processor


def tiny_mistral() -> tuple[Any, Any]:
    """A window in every layer, in a configuration without types of layers."""
    return tiny_llava_with("Mistral", sliding_window=WINDOW, head_dim=32)


def tiny_qwen2_window() -> tuple[Any, Any]:
    """A window from the second layer on."""
    return tiny_llava_with("Qwen2", use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)


def tiny_phi3() -> tuple[Any, Any]:
    """Products that are fused: `qkv_proj` and `gate_up_proj`."""
    return tiny_llava_with("Phi3")


def tiny_phi3_window() -> tuple[Any, Any]:
    """Phi-3 mini's window."""
    return tiny_llava_with("Phi3", sliding_window=WINDOW)


def tiny_llava_bos() -> tuple[Any, Any]:
    """LLaVA-1.5 as it is on the hub: the tokenizer writes the first token, the template does not."""
    model, processor = tiny_parts()
    tokenizer = processor.tokenizer
    tokenizer.add_special_tokens({"bos_token": BOS})
    model.resize_token_embeddings(len(tokenizer))
    _says_bos(tokenizer)
    return model.eval(), processor


def tiny_pixtral() -> tuple[Any, Any]:
    """Pixtral, in LLaVA's classes: features of as many patches as a picture has; the template writes the first token."""
    transformers = _transformers()
    special = ["<pad>", BOS, "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer = _says_bos(_byte_tokenizer(special, "</s>"))
    ids = tokenizer.convert_tokens_to_ids
    patch = 12
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(size={"longest_edge": 72}, patch_size=patch),
        tokenizer=tokenizer,
        patch_size=patch,
        chat_template=MISTRAL,
    )
    ends = {"pad_token_id": ids("<pad>"), "bos_token_id": ids(BOS), "eos_token_id": ids("</s>")}
    config = transformers.LlavaConfig(
        vision_config=transformers.PixtralVisionConfig(**TOWER, image_size=72, patch_size=patch),
        text_config=transformers.MistralConfig(
            vocab_size=len(tokenizer), **TEXT, **ends, sliding_window=None, head_dim=32
        ),
        image_token_index=ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    model.generation_config.update(**ends, do_sample=False)
    return model, processor


def tiny_gemma3() -> tuple[Any, Any]:
    """Gemma 3: a window in every layer but one, an image's tokens see each other, the template writes the first token."""
    transformers = _transformers()
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    special += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    names = dict(zip(("boi_token", "eoi_token", "image_token"), special[5:], strict=True))
    tokenizer = _says_bos(_byte_tokenizer(special, "<eos>", extra_special_tokens=names), "<bos>")
    tokenizer.add_tokens(["\n" * count for count in range(1, 5)])  # Gemma's vocabulary has them, and vLLM relies on it
    ids = tokenizer.convert_tokens_to_ids
    edge, patch, side = 48, 8, 3
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": edge, "width": edge}),
        tokenizer=tokenizer,
        chat_template=GEMMA,
        image_seq_length=side * side,
    )
    ends = {"pad_token_id": ids("<pad>"), "bos_token_id": ids("<bos>"), "eos_token_id": ids("<eos>")}
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(
            vocab_size=len(tokenizer),
            **{**TEXT, "num_hidden_layers": 3},
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            **ends,
        ),
        vision_config=transformers.SiglipVisionConfig(**TOWER, image_size=edge, patch_size=patch),
        mm_tokens_per_image=side * side,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.generation_config.update(pad_token_id=ids("<pad>"), eos_token_id=[ids("<eos>"), ids("<end_of_turn>")])
    return model, processor


def tiny_aya() -> tuple[Any, Any]:
    """Aya Vision: Cohere2, with windows in all layers but every fourth, which has no positions."""
    transformers = _transformers()
    names = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"]
    tokenizer = _byte_tokenizer(["<pad>", "<|im_start|>", "<|im_end|>", "<image>", *names], "<|im_end|>")
    ids = tokenizer.convert_tokens_to_ids
    edge, patch = 32, 8
    processor = transformers.AyaVisionProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(
            size={"height": edge, "width": edge}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tokenizer,
        patch_size=patch,
        img_size=edge,
        downsample_factor=2,
        chat_template=TURNS.replace("IMAGE", "<image>"),
    )
    ends = {"pad_token_id": ids("<pad>"), "bos_token_id": ids("<|im_start|>"), "eos_token_id": ids("<|im_end|>")}
    config = transformers.AyaVisionConfig(
        text_config=transformers.Cohere2Config(
            vocab_size=len(tokenizer),
            **TEXT,
            **ends,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=transformers.SiglipVisionConfig(
            **TOWER, image_size=edge, patch_size=patch, vision_use_head=False
        ),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        alignment_intermediate_size=64,
        image_token_index=ids("<|IMG_PATCH|>"),
    )
    model = transformers.AyaVisionForConditionalGeneration(config).eval()
    model.generation_config.update(**ends, do_sample=False)
    return model, processor


def tiny_qwen3_5() -> tuple[Any, Any]:
    """Qwen3.5: linear attention, which carries a state, in every layer but one."""
    from tests.tiny_families import QWEN

    transformers = _transformers()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = _byte_tokenizer([*special, "<|image_pad|>", "<|video_pad|>"], "<|im_end|>")
    ids = tokenizer.convert_tokens_to_ids
    patch = 16
    size = {"shortest_edge": 4 * patch**2, "longest_edge": 16 * 4 * patch**2}
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(size=size, patch_size=patch, merge_size=2),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(size=size),
        chat_template=QWEN,
    )
    config = transformers.Qwen3_5Config(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "head_dim": 32,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            **TOWER,
            "depth": 2,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "patch_size": patch,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    return transformers.Qwen3_5ForConditionalGeneration(config).eval(), processor


VARIANTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava-mistral": tiny_mistral,
    "llava-qwen2": tiny_qwen2_window,
    "llava-phi3": tiny_phi3,
    "llava-phi3-window": tiny_phi3_window,
    "llava-bos": tiny_llava_bos,
    "pixtral": tiny_pixtral,
    "gemma3": tiny_gemma3,
    "aya-vision": tiny_aya,
    "qwen3.5": tiny_qwen3_5,
}
