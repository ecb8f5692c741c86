"""Settings of a judge model behind an endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.core.endpoint_url import EndpointUrl
from harness.judging.base import JudgeSettings


class OpenAIJudgeSettings(JudgeSettings):
    """The judge's model, and settings of requests. The key comes from the environment and is never stored."""

    model: str = Field("gpt-4o", description="model of the judge")
    base_url: EndpointUrl | None = Field(
        default=None,
        repr=False,
        description="OpenAI-compatible endpoint; None: OPENAI_BASE_URL, or else the vendor's",
    )
    temperature: float | None = Field(
        default=0.0, ge=0, description="None: not sent; the default is dropped if the endpoint refuses it"
    )
    retry_temperature: float | None = Field(
        default=0.7, ge=0, description="temperature when a reply that cannot be parsed is requested again"
    )
    max_tokens: int = Field(
        default=512, ge=1, description="limit of a reply, reasoning included; default for reasoning models: 4096"
    )
    token_parameter: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        default="auto", description="parameter name of that limit; auto: max_tokens until the endpoint refuses it"
    )
    reasoning_effort: str | None = Field(
        default=None, pattern="^[a-z]+$", description="minimal, low, medium, high, ... if the model has it"
    )
    concurrency: int = Field(default=8, ge=1, description="concurrent requests")
    timeout_s: float = Field(default=60, gt=0, description="time limit of a request in seconds")
    attempts: int = Field(default=6, ge=1, description="attempts per reply")
    asks: int = Field(default=3, ge=1, description="requests per vote if replies cannot be parsed")
    votes: int = Field(default=1, ge=1, description="votes per answer")
    accept: Literal["same", "any"] = Field(
        default="same", description="any: accept replies from a model with another name than the requested one"
    )
    max_cost: float | None = Field(default=None, ge=0, description="budget of this command in US dollars")
    price: tuple[float, float] | None = Field(
        default=None, description="US dollars per million prompt and completion tokens; None: from the built-in table"
    )
