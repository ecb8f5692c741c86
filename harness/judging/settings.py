"""How a judge model behind an endpoint is asked: what a user can set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.core.redaction import EndpointUrl
from harness.judging.base import JudgeSettings


class OpenAIJudgeSettings(JudgeSettings):
    """Which model judges, and how it is asked. The key comes from the environment and is written nowhere."""

    model: str = "gpt-4o"
    base_url: EndpointUrl | None = Field(
        default=None,
        repr=False,
        description="an OpenAI-compatible endpoint; None is OPENAI_BASE_URL, else the vendor's",
    )
    temperature: float | None = Field(
        default=0.0, ge=0, description="None sends none; left out once the endpoint refuses it, if it is not named"
    )
    retry_temperature: float | None = Field(
        default=0.7, ge=0, description="when a reply that cannot be read is asked for again"
    )
    max_tokens: int = Field(
        default=512, ge=1, description="of a reply, reasoning included; if not named, 4096 for models that reason"
    )
    token_parameter: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        default="auto", description="what the model calls that limit; auto: max_tokens until the endpoint refuses it"
    )
    reasoning_effort: str | None = Field(
        default=None, pattern="^[a-z]+$", description="minimal, low, medium, high, ... where the model has it"
    )
    concurrency: int = Field(default=8, ge=1)
    timeout_s: float = Field(default=60, gt=0)
    attempts: int = Field(default=6, ge=1, description="calls for one reply before it is given up")
    asks: int = Field(default=3, ge=1, description="askings for one vote whose reply cannot be read")
    votes: int = Field(default=1, ge=1)
    accept: Literal["same", "any"] = Field(
        default="same", description="whether a reply may come from a model with another name than was asked for"
    )
    max_cost: float | None = Field(default=None, ge=0, description="US dollars of this command; then it stops")
    price: tuple[float, float] | None = Field(
        default=None, description="US dollars for a million prompt and completion tokens; None is the table's"
    )
