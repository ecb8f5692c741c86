"""One small model with random weights of every family that has an alias: the real architecture, processor and chat template.

The templates are those of the hub's checkpoints, in the parts that a question with one image uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.tiny import tiny_llava_next, tiny_parts

QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_CORPUS = [
    "User: What is in the picture?",
    "Assistant: a red cat and a blue dog",
    "system You are a helpful assistant.",
]


def _byte_tokenizer(special: list[str], eos: str, **more: Any) -> Any:
    """A byte-level tokenizer with the family's special tokens; `more` is for its class."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=special[0], **more)


_SIZES = {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64}
_QWEN_TOWERS: dict[str, dict[str, Any]] = {
    "Qwen2VL": {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "patch_size": 14},
    "Qwen2_5_VL": {**_SIZES, "fullatt_block_indexes": [1], "window_size": 56, "patch_size": 14},
    "Qwen3VL": {**_SIZES, "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "patch_size": 16},
}


def tiny_qwen(seed: int = 0, kind: str = "Qwen2_5_VL") -> tuple[Any, Any]:
    """Qwen2.5-VL: any size of image, merged patches, positions in three dimensions."""
    import torch
    import transformers

    def the(name: str, kind: str = kind) -> Any:
        return getattr(transformers, f"{kind}{name}")

    third, patch = kind == "Qwen3VL", _QWEN_TOWERS[kind]["patch_size"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = _byte_tokenizer([*special, "<|image_pad|>", "<|video_pad|>"], "<|im_end|>")
    ids = tokenizer.convert_tokens_to_ids
    size = {"shortest_edge": 4 * patch**2, "longest_edge": 16 * 4 * patch**2}
    processor = the("Processor")(
        image_processor=the("ImageProcessor", "Qwen2VL")(size=size, patch_size=patch, merge_size=2),
        tokenizer=tokenizer,
        video_processor=the("VideoProcessor", "Qwen3VL" if third else "Qwen2VL")(size=size),
        chat_template=QWEN,
    )
    torch.manual_seed(seed)
    sections = {"mrope_section": [6, 5, 5], "mrope_interleaved": True} if third else {"mrope_section": [4, 6, 6]}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        **({"head_dim": 32} if third else {}),
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **sections},
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
    }
    config = the("Config")(
        text_config=text,
        vision_config={"depth": 2, "num_heads": 2, **_QWEN_TOWERS[kind]},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    return the("ForConditionalGeneration")(config).eval(), processor


def tiny_qwen2(seed: int = 0) -> tuple[Any, Any]:
    """Qwen2-VL: the first with such positions; its tower has no windows."""
    return tiny_qwen(seed, "Qwen2VL")


def tiny_qwen3(seed: int = 0) -> tuple[Any, Any]:
    """Qwen3-VL: the tower's layers speak to the language model's first layers, too; dimensions of positions are interleaved."""
    return tiny_qwen(seed, "Qwen3VL")


def tiny_idefics3(seed: int = 0, kind: str = "Idefics3") -> tuple[Any, Any]:
    """Idefics3, as SmolVLM's first models are: tiles with names between them, and the whole image behind them."""
    import torch
    import transformers

    def the(name: str) -> Any:
        return getattr(transformers, f"{kind}{name}")

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    special = [
        "<|im_end|>",
        "<|im_start|>",
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        "<end_of_utterance>",
    ]
    tokenizer = _byte_tokenizer([*special, *tiles], "<end_of_utterance>")
    ids = tokenizer.convert_tokens_to_ids
    edge, patch, scale = 32, 8, 2
    sizes = {"size": {"longest_edge": 3 * edge}, "max_image_size": {"longest_edge": edge}}
    videos = {"video_processor": the("VideoProcessor")(**sizes, num_frames=2, fps=1)} if kind == "SmolVLM" else {}
    processor = the("Processor")(
        image_processor=the("ImageProcessor")(**sizes, do_image_splitting=True),
        tokenizer=tokenizer,
        image_seq_len=(edge // patch // scale) ** 2,
        chat_template=SMOLVLM,
        **videos,
    )
    torch.manual_seed(seed)
    config = the("Config")(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": edge,
            "patch_size": patch,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            "pad_token_id": ids("<|im_end|>"),
            "bos_token_id": ids("<|im_start|>"),
            "eos_token_id": ids("<end_of_utterance>"),
        },
        scale_factor=scale,
        image_token_id=ids("<image>"),
        pad_token_id=ids("<|im_end|>"),
    )
    return the("ForConditionalGeneration")(config).eval(), processor


def tiny_smolvlm(seed: int = 0) -> tuple[Any, Any]:
    """SmolVLM2: the same design under its own name, with videos."""
    return tiny_idefics3(seed, "SmolVLM")


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava-1.5": tiny_parts,
    "llava-v1.6": tiny_llava_next,
    "qwen2-vl": tiny_qwen2,
    "qwen2.5-vl": tiny_qwen,
    "qwen3-vl": tiny_qwen3,
    "smolvlm": tiny_idefics3,
    "smolvlm2": tiny_smolvlm,
}
