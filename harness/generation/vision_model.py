"""The vision-language model that a judge of candidates asks about pictures: behind an endpoint, or on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from harness.core.config import parse
from harness.core.errors import BadInputError
from harness.core.types import ImageRef, Item, Response
from harness.evaluation.responses import ResponseLog, request_hash
from harness.models import first_tokens, load_processor, resolve
from harness.runs.targets import Target, engine_of, target_of_endpoint, target_of_model
from harness.serving.base import Backend, Request, Sampling
from harness.serving.choose import choose_backend
from harness.serving.contract import completions_of

K = TypeVar("K", bound=Hashable)
_ATTEMPTS = 3
"""Requests per question if the answer is empty."""


@dataclass(frozen=True)
class VisionQuestion:
    """A question about a picture. `repeat` numbers further answers to the same question; of `choices`, the likeliest is the answer."""

    text: str
    image: ImageRef
    sampling: Sampling
    repeat: int = 0
    choices: tuple[str, ...] = ()


class VisionModel:
    """Answers questions about pictures; every answer is stored, and nothing is asked twice.

    Args:
        judge: name of the judge, for messages.
        option: name of the setting that names the model, for messages.
        model: its name at `url`, or a checkpoint of this machine.
        url: OpenAI-compatible endpoint; None: this machine.
        backend: what serves a local checkpoint; None: vLLM if installed.
    """

    def __init__(self, judge: str, option: str, model: str, url: Any, backend: str | None) -> None:
        self.judge, self.option, self.model, self.url, self.backend_name = judge, option, model, url, backend
        self._held = ExitStack()
        self._engine: Backend | None = None
        self.took: dict[str, int] = defaultdict(int)
        """asked, kept: number of questions; prompt tokens, completion tokens: of those asked, as far as they are known."""

    def check(self, choices: tuple[str, ...] = ()) -> str | None:
        """Check that the model is available; an endpoint is first asked about a small picture.

        Args:
            choices: answers whose likelihoods will be compared, if they can be.

        Returns:
            Why likelihoods cannot be compared; None if they can, or if there are no choices.

        Raises:
            BadInputError: no model is named, or it is not available, or sees no pictures.
        """
        self.check_named()
        self._target, self._backend = self._located()
        if not self._backend.remote:
            return self._lacking(lambda: first_tokens(load_processor(self._target.base), choices)) if choices else None
        with self._made() as backend:
            return self._lacking(backend.check_likelihoods) if choices else None

    def identity(self) -> dict[str, Any]:
        """What determines its answers besides its name: a local model's weights and template, as `weights`; empty for an endpoint.

        Raises:
            BadInputError: the settings name no model.
        """
        self.check_named()
        return {} if self.url else {"weights": self._weights}

    @cached_property
    def _weights(self) -> list[str]:
        target, _ = self._located()
        return [target.fingerprint, target.template]

    def check_named(self) -> None:
        """Check that the settings name a model.

        Raises:
            BadInputError: they do not.
        """
        if not self.model:
            raise BadInputError(
                f"the judge '{self.judge}' needs a model that looks at the images",
                remedy=f"--set judge.{self.option}=MODEL, with --set judge.{self.option}_url=URL where an endpoint serves it",
            )

    def _lacking(self, check: Callable[[], object]) -> str | None:
        if not self._backend.gives_likelihoods:
            return f"the backend '{self._backend.name}' gives no log-probabilities"
        try:
            check()
        except BadInputError as error:
            return error.problem
        return None

    def close(self) -> None:
        """Close the engine, if one was started."""
        self._held.close()
        self._engine = None

    def answers(self, questions: Mapping[K, VisionQuestion], folder: Path) -> dict[K, Response | None]:
        """The answer to each question, or None if the model declined, said nothing or could not be asked.

        Args:
            questions: key -> question; equal questions are asked once.
            folder: of the answers' log.

        Raises:
            HarnessError: the model cannot be reached. Earlier answers are kept.
        """
        identity = parse(self._backend.Settings, self._backend_settings(), self.option).identity(self._backend.name)
        requests: dict[K, Request] = {}
        for key, question in questions.items():
            item = Item("", question.text, question.image, "", choices=question.choices)
            digest = request_hash(
                item,
                question.image.fingerprint(),
                question.sampling,
                self._target.fingerprint,
                self._target.template,
                identity,
                question.repeat,
            )
            asked = (self._target.served, question.text, question.image, question.sampling)
            requests[key] = Request(digest, *asked, choices=question.choices)
        said: dict[str, Response | None] = {}
        with ResponseLog(folder) as log:
            kept = {request.id: log.get(self.judge, request.id) for request in requests.values()}
            said.update({name: answer for name, answer in kept.items() if answer is not None})
            missing = list({request.id: request for request in requests.values() if request.id not in said}.values())
            self.took["kept"] += len(said)
            for _ in range(_ATTEMPTS):
                if not missing:
                    break
                empty = self._ask(missing, said, log)
                missing = [request for request in missing if request.id in empty]
        return {key: said.get(request.id) for key, request in requests.items()}

    def _ask(self, requests: Sequence[Request], said: dict[str, Response | None], log: ResponseLog) -> set[str]:
        """Ask, and store the answers; returns the ids of the requests whose answers were empty, which are not stored."""
        empty = set()
        for done in completions_of(self._running(), requests):
            self.took["asked"] += 1
            self.took["prompt tokens"] += done.prompt_tokens or 0
            self.took["completion tokens"] += done.completion_tokens or 0
            said[done.id] = None
            if done.refused is not None or done.refusal is not None:
                continue
            if not done.text:
                empty.add(done.id)
                continue
            log.add(self.judge, done.id, done, self._backend.name, self._target.answered_by(done.model))
            said[done.id] = log.get(self.judge, done.id)
        return empty

    def _located(self) -> tuple[Target, type[Backend]]:
        # The target's run folder is not made, because these answers are stored with the set.
        if self.url:
            return target_of_endpoint(self.model, Path("results")), choose_backend("openai")
        backend = choose_backend(self.backend_name)
        return target_of_model(resolve(self.model), Path("results")), backend

    def _backend_settings(self) -> dict[str, Any]:
        return {"endpoints": [self.url]} if self.url else {}

    def _made(self) -> Backend:
        settings = parse(self._backend.Settings, self._backend_settings(), self.option)
        return engine_of([self._target], self._backend, settings)

    def _running(self) -> Backend:
        if self._engine is None:
            self._engine = self._held.enter_context(self._made())
        return self._engine
