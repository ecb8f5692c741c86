"""Small models with random weights of the families that came after LLaVA and Qwen2-VL: the real architecture, processor and chat template.

The templates are those of the hub's checkpoints, in the parts that a question with one image uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.tiny_families import _byte_tokenizer, tiny_qwen3
from tests.tiny_variants import BOS, GEMMA, MISTRAL, TEXT, TOWER, WINDOW, _says_bos, _transformers, tiny_qwen3_5

INTERNVL = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The prompt ends with a line break, and a conversation has a blank before that line break."""
GLM = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{% if message['role'] == 'assistant' %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""An answer is printed as it is: its parts would appear as Python writes a list."""
TURN_ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _qwen_text(kind: str, tokenizer: Any, **more: Any) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    ends = {"pad_token_id": ids("<|endoftext|>"), "bos_token_id": None, "eos_token_id": ids("<|im_end|>")}
    return getattr(_transformers(), f"{kind}Config")(vocab_size=len(tokenizer), **TEXT, **ends, **more)


def _ready(model: Any, tokenizer: Any) -> Any:
    """For evaluation, with the tokenizer's end token."""
    model.generation_config.update(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    return model.eval()


def tiny_internvl() -> tuple[Any, Any]:
    """InternVL3: tiles of one size and the whole image behind them, each with as many tokens as a quarter of its patches."""
    transformers = _transformers()
    marks = ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
    tokenizer = _byte_tokenizer(
        [*TURN_ENDS, *marks], "<|im_end|>", extra_special_tokens=dict(zip(names, marks, strict=True))
    )
    edge, patch = 32, 8
    size = {"height": edge, "width": edge}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(
            size=size, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=(edge // patch // 2) ** 2,
        chat_template=INTERNVL,
    )
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**TOWER, image_size=[edge, edge], patch_size=[patch, patch]),
        text_config=_qwen_text("Qwen2", tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(edge // patch // 2) ** 2,
        tie_word_embeddings=False,
    )
    return _ready(transformers.InternVLForConditionalGeneration(config), tokenizer), processor


def tiny_internvl35() -> tuple[Any, Any]:
    """InternVL3.5: the same with a language model of Qwen3's."""
    transformers = _transformers()
    model, processor = tiny_internvl()
    config = transformers.InternVLConfig(
        **{**model.config.to_dict(), "text_config": _qwen_text("Qwen3", processor.tokenizer, head_dim=32)}
    )
    return _ready(transformers.InternVLForConditionalGeneration(config), processor.tokenizer), processor


def tiny_onevision() -> tuple[Any, Any]:
    """LLaVA-OneVision: tiles of SigLIP's, with a learned token behind every row."""
    transformers = _transformers()
    tokenizer = _byte_tokenizer([*TURN_ENDS, "<image>", "<video>"], "<|im_end|>")
    edge, patch = 32, 8
    grid = [[edge, edge], [edge, 2 * edge], [2 * edge, edge], [2 * edge, 2 * edge]]
    size = {"height": edge, "width": edge}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(edge // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION,
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(
            **TOWER, image_size=edge, patch_size=patch, vision_use_head=False
        ),
        text_config=_qwen_text("Qwen2", tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return _ready(transformers.LlavaOnevisionForConditionalGeneration(config), tokenizer), processor


def tiny_mistral3() -> tuple[Any, Any]:
    """Mistral Small 3.1: Pixtral's tower with merged patches, a token behind every row of patches, another behind the image."""
    transformers = _transformers()
    special = ["<pad>", BOS, "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer = _says_bos(_byte_tokenizer(special, "</s>"))
    ids = tokenizer.convert_tokens_to_ids
    patch = 8
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(size={"longest_edge": 96}, patch_size=patch),
        tokenizer=tokenizer,
        patch_size=patch,
        spatial_merge_size=2,
        chat_template=MISTRAL,
    )
    ends = {"pad_token_id": ids("<pad>"), "bos_token_id": ids(BOS), "eos_token_id": ids("</s>")}
    config = transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**TOWER, image_size=96, patch_size=patch),
        text_config=transformers.MistralConfig(
            vocab_size=len(tokenizer), **TEXT, **ends, sliding_window=None, head_dim=32
        ),
        image_token_index=ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return _ready(transformers.Mistral3ForConditionalGeneration(config), tokenizer), processor


def tiny_glm(kind: str = "Glm4v") -> tuple[Any, Any]:
    """GLM-4.1V: any size of image, positions in three dimensions, fused products."""
    transformers = _transformers()
    special = ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>"]
    special += [f"<|{where}_of_{what}|>" for what in ("image", "video") for where in ("begin", "end")]
    tokenizer = _byte_tokenizer([*special, "<|image|>", "<|video|>"], "<|endoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    patch = 8
    size = {"shortest_edge": 2 * 4 * patch**2, "longest_edge": 2 * 16 * 4 * patch**2}
    processor = getattr(transformers, f"{kind}Processor")(
        image_processor=getattr(transformers, f"{kind}ImageProcessor")(size=size, patch_size=patch, merge_size=2),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, f"{kind}VideoProcessor")(size=size, patch_size=patch, merge_size=2),
        chat_template=GLM,
    )
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 3, 3],
            "partial_rotary_factor": 0.5,
        },
        "pad_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|endoftext|>"),
    }
    vision = {
        **{name: value for name, value in TOWER.items() if name not in ("num_hidden_layers", "num_attention_heads")},
        "depth": 2,
        "num_heads": 2,
        "patch_size": patch,
        "image_size": 64,
        "out_hidden_size": 64,
    }
    config = getattr(transformers, f"{kind}Config")(
        text_config=transformers.Glm4vTextConfig(**text),
        vision_config=transformers.Glm4vVisionConfig(**vision),
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    model = _ready(getattr(transformers, f"{kind}ForConditionalGeneration")(config), tokenizer)
    model.generation_config.update(eos_token_id=[ids("<|endoftext|>"), ids("<|user|>")])
    return model, processor


def tiny_glm46v() -> tuple[Any, Any]:
    """GLM-4.6V-Flash: the same under its own name."""
    return tiny_glm("Glm46V")


def tiny_gemma4(bidirectional: str | None = None) -> tuple[Any, Any]:
    """Gemma 4: windows, capped logits, inputs for each layer, and last layers that take keys and values of earlier ones."""
    transformers = _transformers()
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    marks = [
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
        "<start_of_audio>",
        "<end_of_audio>",
        "<audio_soft_token>",
    ]
    names = ("boi_token", "eoi_token", "image_token", "boa_token", "eoa_token", "audio_token")
    extra = dict(zip(names, marks, strict=True))
    tokenizer = _says_bos(
        _byte_tokenizer([*special, *marks, "<|video|>"], "<eos>", extra_special_tokens=extra), "<bos>"
    )
    tokenizer.add_tokens(["\n" * count for count in range(1, 5)])  # Gemma's vocabulary has them, and vLLM relies on it
    ids = tokenizer.convert_tokens_to_ids
    patch = {"patch_size": 4, "pooling_kernel_size": 3}
    processor = transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(**patch, max_soft_tokens=70),
        tokenizer=tokenizer,
        video_processor=transformers.Gemma4VideoProcessor(**patch, max_soft_tokens=70),
        chat_template=GEMMA.replace("<start_of_image>", "<image_soft_token>"),
        image_seq_length=70,
    )
    ends = {"pad_token_id": ids("<pad>"), "bos_token_id": ids("<bos>"), "eos_token_id": ids("<eos>")}
    text = {
        **TEXT,
        "num_hidden_layers": 4,
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),
        **ends,
    }
    config = transformers.Gemma4Config(
        text_config=transformers.Gemma4TextConfig(
            **text,
            head_dim=32,
            global_head_dim=64,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            hidden_size_per_layer_input=16,
            final_logit_softcapping=2.0,
            use_bidirectional_attention=bidirectional,
        ),
        vision_config=transformers.Gemma4VisionConfig(
            **TOWER,
            **patch,
            num_key_value_heads=2,
            head_dim=16,
            position_embedding_size=256,
            default_output_length=70,  # which vLLM reads
        ),
        audio_config=None,
        image_token_id=ids("<image_soft_token>"),
        video_token_id=ids("<|video|>"),
        audio_token_id=ids("<audio_soft_token>"),
        boi_token_id=ids("<start_of_image>"),
        eoi_token_id=ids("<end_of_image>"),
        boa_token_id=ids("<start_of_audio>"),
        eoa_token_index=ids("<end_of_audio>"),
    )
    model = _ready(transformers.Gemma4ForConditionalGeneration(config), tokenizer)
    model.generation_config.update(eos_token_id=[ids("<eos>"), ids("<end_of_turn>")])
    return model, processor


def tiny_gemma4_whole() -> tuple[Any, Any]:
    """The larger Gemma 4: an image's tokens see each other in the layers with windows."""
    return tiny_gemma4("vision")


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}


def tiny_qwen3_moe() -> tuple[Any, Any]:
    """Qwen3-VL with experts, such as 30B-A3B: their products are no linear modules, so adapters are on the attention only."""
    transformers = _transformers()
    dense, processor = tiny_qwen3()
    given = dense.config.to_dict()
    text = {name: value for name, value in given["text_config"].items() if name != "model_type"}
    vision = {name: value for name, value in given["vision_config"].items() if name != "model_type"}
    tokens = {name: value for name, value in given.items() if name.endswith("_token_id")}
    config = transformers.Qwen3VLMoeConfig(text_config={**text, **EXPERTS}, vision_config=vision, **tokens)
    return _ready(transformers.Qwen3VLMoeForConditionalGeneration(config), processor.tokenizer), processor


def tiny_qwen3_5_moe() -> tuple[Any, Any]:
    """Qwen3.5 with experts, such as 35B-A3B: linear attention, and products that are no linear modules."""
    dense, processor = tiny_qwen3_5()
    given = dense.config.to_dict()
    text = {
        name: value for name, value in given["text_config"].items() if name not in ("model_type", "intermediate_size")
    }
    vision = {name: value for name, value in given["vision_config"].items() if name != "model_type"}
    tokens = {name: value for name, value in given.items() if name.endswith("_token_id")}
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    }
    transformers = _transformers()
    config = transformers.Qwen3_5MoeConfig(text_config={**text, **experts}, vision_config=vision, **tokens)
    return _ready(transformers.Qwen3_5MoeForConditionalGeneration(config), processor.tokenizer), processor


MODERN: dict[str, Callable[[], tuple[Any, Any]]] = {
    "internvl3": tiny_internvl,
    "internvl3.5": tiny_internvl35,
    "llava-onevision": tiny_onevision,
    "mistral-small-3.1": tiny_mistral3,
    "glm-4.1v": tiny_glm,
    "glm-4.6v": tiny_glm46v,
    "qwen3-vl-moe": tiny_qwen3_moe,
    "qwen3.5-moe": tiny_qwen3_5_moe,
    "gemma4": tiny_gemma4,
    "gemma4-whole": tiny_gemma4_whole,
}
ALIKE = {"internvl3.5", "glm-4.6v", "gemma4-whole", "qwen3.5-moe"}
"""Families that share their code with another one here: what takes long is tested with them in exhaustive runs only."""
