"""The parameters that are sent to a judge model with the prompt. Models accept different ones; a refused parameter is not sent again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.files import sha256_json, write_json
from harness.remote.reply import Reason, Refused

if TYPE_CHECKING:
    from harness.judging.settings import OpenAIJudgeSettings

logger = logging.getLogger(__name__)

REASONING_TOKENS = 4096
"""Default limit for models that need `max_completion_tokens`: their reasoning, which comes first, counts."""


class Parameters:
    """The parameters of one judge model at one endpoint.

    Explicit settings are sent unchanged. Open ones (`token_parameter: auto`, the default temperature) are adapted when the endpoint
    refuses them; this is logged, cached for later commands (so that a reply is found under what was really sent), and part of every
    reply's key.

    Args:
        settings: the judge's.
        url: the endpoint, without credentials.
        folder: the cache of judges' replies.
    """

    def __init__(self, settings: OpenAIJudgeSettings, url: str | None, folder: Path) -> None:
        self._settings = settings
        self._memory = folder / "parameters" / f"{sha256_json([settings.model, url])}.json"
        self._about = {"model": settings.model, "endpoint": url}
        self._token_parameter = settings.token_parameter
        if self._token_parameter == "auto":
            self._token_parameter = "max_tokens"
        self._temperature_refused = False
        self._refused: set[str] = set()
        self._recall()

    def _recall(self) -> None:
        """Load what an earlier command learned about open settings."""
        try:
            known = json.loads(self._memory.read_text(encoding="utf-8"))
            tokens, temperature = known["token_parameter"], known["temperature_refused"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if self._settings.token_parameter == "auto" and tokens in ("max_tokens", "max_completion_tokens"):
            self._token_parameter = tokens
        if self._temperature_is_open:
            self._temperature_refused = temperature is True

    @property
    def _temperature_is_open(self) -> bool:
        return "temperature" not in self._settings.model_fields_set

    @property
    def most_tokens(self) -> int:
        """Tokens that a reply may have."""
        settings = self._settings
        adapted = settings.token_parameter == "auto" and self._token_parameter == "max_completion_tokens"
        return max(settings.max_tokens, REASONING_TOKENS) if adapted and self._limit_is_open else settings.max_tokens

    @property
    def _limit_is_open(self) -> bool:
        return "max_tokens" not in self._settings.model_fields_set

    def sent(self, again: bool = False) -> dict[str, Any]:
        """The parameters of a request.

        Args:
            again: the earlier reply could not be read; with unchanged parameters, the same reply would come again.
        """
        settings, temperature = self._settings, self._settings.temperature
        if again and temperature is not None and settings.retry_temperature is not None:
            temperature = max(temperature, settings.retry_temperature)
        parameters: dict[str, Any] = (
            {} if temperature is None or self._temperature_refused else {"temperature": temperature}
        )
        parameters[self._token_parameter] = self.most_tokens
        if settings.reasoning_effort is not None:
            parameters["reasoning_effort"] = settings.reasoning_effort
        return parameters

    def key(self, sent: Mapping[str, Any], prompt: str, sample: int) -> str:
        """Key of a reply in the cache: everything that was sent, and the endpoint. Requests without adaptations keep the key of earlier
        versions."""
        model, url = self._settings.model, self._about["endpoint"]
        if sent.keys() == {"temperature", "max_tokens"}:
            return sha256_json([model, url, sent["temperature"], sent["max_tokens"], prompt, sample])
        return sha256_json([model, url, sent, prompt, sample])

    def adapt(self, refused: Refused) -> None:
        """Omit or rename the refused parameter, if the settings leave it open."""
        if refused.reason is not Reason.PARAMETER or refused.parameter in self._refused:
            return
        self._refused.add(refused.parameter)
        other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}.get(refused.parameter)
        if other and self._settings.token_parameter == "auto" and other not in self._refused:
            self._token_parameter = other  # type: ignore[assignment]
            said = f"{other} is sent instead of {refused.parameter}"
            if self.most_tokens != self._settings.max_tokens:
                said += f", with {self.most_tokens} tokens, because reasoning counts (--set judge.max_tokens=N)"
        elif refused.parameter == "temperature" and self._temperature_is_open:
            self._temperature_refused = True
            said = "no temperature is sent, so the vendor's default applies"
        else:
            return
        logger.info(f"the judge refuses {refused.parameter} ({refused}): {said}")
        learned = {"token_parameter": self._token_parameter, "temperature_refused": self._temperature_refused}
        write_json(self._memory, self._about | learned)
