"""The vision-language model that a judge of candidates asks about pictures: behind an endpoint, or on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.core.config import parse
from harness.core.errors import BadInputError
from harness.core.types import ImageRef, Item, Response
from harness.evaluation.responses import ResponseLog, request_hash
from harness.models import resolve
from harness.runs.targets import Target, engine_of, target_of_endpoint, target_of_model
from harness.serving.base import Backend, Request, Sampling
from harness.serving.choose import choose_backend
from harness.serving.contract import completions_of

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Question:
    """A question about a picture. `repeat` numbers further answers to the same question."""

    text: str
    image: ImageRef
    sampling: Sampling
    repeat: int = 0


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

    def check(self) -> None:
        """Check that the model is available; an endpoint is first asked about a small picture.

        Raises:
            BadInputError: no model is named, or it is not available, or sees no pictures.
        """
        if not self.model:
            raise BadInputError(
                f"the judge '{self.judge}' needs a model that looks at the images",
                remedy=f"--set judge.{self.option}=MODEL, with --set judge.{self.option}_url=URL where an endpoint serves it",
            )
        self._target, self._backend = self._located()
        if self._backend.remote:
            with self._made():
                pass

    def close(self) -> None:
        """Close the engine, if one was started."""
        self._held.close()
        self._engine = None

    def answers(self, questions: Mapping[K, Question], folder: Path) -> dict[K, Response | None]:
        """The answer to each question, or None if the model declined or the question could not be asked.

        Args:
            questions: key -> question; equal questions are asked once.
            folder: of the answers' log.

        Raises:
            HarnessError: the model cannot be reached. Earlier answers are kept.
        """
        identity = parse(self._backend.Settings, self._backend_settings(), self.option).identity(self._backend.name)
        requests: dict[K, Request] = {}
        for key, question in questions.items():
            item = Item("", question.text, question.image, "")
            digest = request_hash(
                item,
                question.image.fingerprint(),
                question.sampling,
                self._target.fingerprint,
                self._target.template,
                identity,
                question.repeat,
            )
            requests[key] = Request(digest, self._target.served, question.text, question.image, question.sampling)
        said: dict[str, Response | None] = {}
        with ResponseLog(folder) as log:
            kept = {request.id: log.get(self.judge, request.id) for request in requests.values()}
            said.update({name: answer for name, answer in kept.items() if answer is not None})
            missing = list({request.id: request for request in requests.values() if request.id not in said}.values())
            self.took["kept"] += len(said)
            for done in completions_of(self._running(), missing) if missing else ():
                self.took["asked"] += 1
                self.took["prompt tokens"] += done.prompt_tokens or 0
                self.took["completion tokens"] += done.completion_tokens or 0
                said[done.id] = None
                if done.refused is None and done.refusal is None:
                    log.add(self.judge, done.id, done, self._backend.name, self._target.answered_by(done.model))
                    said[done.id] = log.get(self.judge, done.id)
        return {key: said.get(request.id) for key, request in requests.items()}

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
