"""Models: what a name means, how prompts are put, how checkpoints are read and written.

Nothing here imports torch until a model is loaded.
"""

from harness.models.aliases import ModelRef, aliases, is_hub_id, recorded, resolve
from harness.models.chat import AnswerEncoder, PromptLengths
from harness.models.checkpoints import CheckpointInfo, check_base, context_length, fingerprint, inspect
from harness.models.export import export_adapter, export_full
from harness.models.four_bits import linear_layers
from harness.models.processors import (
    batch_inputs,
    load_model,
    load_processor,
    own_prompt_ids,
    prompt_inputs,
    prompt_text,
    quiet_transformers,
    template_hash,
    template_hash_of,
    template_with_first_token,
    text_options,
)
from harness.models.ranks import rank_of, served_rank, served_ranks

__all__ = [
    "AnswerEncoder",
    "CheckpointInfo",
    "ModelRef",
    "PromptLengths",
    "aliases",
    "batch_inputs",
    "check_base",
    "context_length",
    "export_adapter",
    "export_full",
    "fingerprint",
    "inspect",
    "is_hub_id",
    "linear_layers",
    "load_model",
    "load_processor",
    "own_prompt_ids",
    "prompt_inputs",
    "prompt_text",
    "quiet_transformers",
    "rank_of",
    "recorded",
    "resolve",
    "served_rank",
    "served_ranks",
    "template_hash",
    "template_hash_of",
    "template_with_first_token",
    "text_options",
]
