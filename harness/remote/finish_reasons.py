"""Why a reply ended, in the words of many servers, as one of a few standard reasons."""

from __future__ import annotations

CONTENT_FILTER = "content_filter"
UNKNOWN = "unknown"
ANSWERS = frozenset(("stop", "length", CONTENT_FILTER, UNKNOWN))
"""The reasons of a reply that is not asked for again: it is whole, cut at its limit or by a filter, or the server does not say."""

# xAI and Anthropic say end_turn, TGI eos_token and stop_sequence, Together eos, Cohere complete, Gemini max_tokens, Mistral model_length.
_STANDARD = {
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "complete": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "null": UNKNOWN,
    "none": UNKNOWN,
}
# Gemini passes its own reasons through, alone or after "content_filter: ", those of pictures after "image_"; Bedrock says
# guardrail_intervened, Anthropic refusal, GLM sensitive.
_FILTERS = (
    CONTENT_FILTER,
    "safety",
    "recitation",
    "prohibited_content",
    "blocklist",
    "spii",
    "guardrail",
    "refusal",
    "sensitive",
)


def standard_reason(reported: str) -> str:
    """A `finish_reason` as a server reports it ("" if it reports none) -> "stop", "length", "content_filter" or "unknown"; its own words in
    lower case if they mean something else, such as "error", "abort" or "tool_calls"."""
    reason = " ".join(reported.lower().split())
    if reason.removeprefix("image_").startswith(_FILTERS):
        return CONTENT_FILTER
    return _STANDARD.get(reason, reason) or UNKNOWN
