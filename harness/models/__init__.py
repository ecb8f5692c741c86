"""Models: resolving names, building prompts, reading and writing checkpoints.

Nothing here imports torch until a model is loaded.
"""

from harness.models.aliases import ModelRef, aliases, is_hub_id, recorded, resolve
from harness.models.chat import AnswerEncoder, PromptLengths, first_tokens
from harness.models.checkpoints import (
    CheckpointInfo,
    check_base,
    check_covers,
    computation_files,
    context_length,
    fingerprint,
    inspect,
    may_be_base,
)
from harness.models.control import control_in, refuse_control
from harness.models.four_bits import linear_layers
from harness.models.messages import messages_of, with_answer
from harness.models.pretrained import quiet_transformers, with_adapters
from harness.models.processors import (
    batch_inputs,
    load_model,
    load_processor,
    own_prompt_ids,
    picture_inputs,
    prompt_inputs,
    prompt_text,
    template_hash,
    template_hash_of,
    template_with_first_token,
    text_options,
)
from harness.models.ranks import rank_of, served_rank, served_ranks
from harness.models.remade import base_location
from harness.models.saving import export_adapter, export_full
from harness.models.servable import servable

__all__ = [
    "AnswerEncoder",
    "CheckpointInfo",
    "ModelRef",
    "PromptLengths",
    "aliases",
    "base_location",
    "batch_inputs",
    "check_base",
    "check_covers",
    "computation_files",
    "context_length",
    "control_in",
    "export_adapter",
    "export_full",
    "fingerprint",
    "first_tokens",
    "inspect",
    "is_hub_id",
    "linear_layers",
    "load_model",
    "load_processor",
    "may_be_base",
    "messages_of",
    "own_prompt_ids",
    "picture_inputs",
    "prompt_inputs",
    "prompt_text",
    "quiet_transformers",
    "rank_of",
    "recorded",
    "refuse_control",
    "resolve",
    "servable",
    "served_rank",
    "served_ranks",
    "template_hash",
    "template_hash_of",
    "template_with_first_token",
    "text_options",
    "with_adapters",
    "with_answer",
]
