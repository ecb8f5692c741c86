"""Sampling several answers to each prompt, each with its own seed; answers are logged as they arrive."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.core.files import sha256_json
from harness.core.progress import progress
from harness.core.types import NO_IMAGE, Item, Response
from harness.evaluation.context import check_context
from harness.evaluation.responses import LOG, ResponseLog, one_model, request_hash
from harness.generation.settings import SampleSettings
from harness.judging.candidates import Begun, Prompt
from harness.models import load_processor, refuse_control
from harness.runs.targets import Target, engine_of
from harness.serving.base import Backend, BackendSettings, Request
from harness.serving.contract import completions_of


@dataclass(frozen=True)
class PromptPart:
    """A slice of the prompts that is processed together, and the folder of its logs."""

    folder: Path
    prompts: Sequence[Prompt]


@dataclass(frozen=True)
class CandidateSampler:
    """The model to sample from, and how.

    Attributes:
        target: the checkpoint.
        backend: what serves it.
        backend_settings: its settings.
        sample: number and sampling of the answers.
        seed: seed of the set; each request's seed is derived from it, the prompt, the image and the answer's number.
    """

    target: Target
    backend: type[Backend]
    backend_settings: BackendSettings
    sample: SampleSettings
    seed: int

    @functools.cached_property
    def _weights(self) -> str:
        """Fingerprint of the checkpoint, which looks at every file of it: once for all requests."""
        return self.target.fingerprint

    def requests(self, prompt: Prompt) -> list[Request]:
        """The requests for one prompt's answers. A request's id is the hash of everything that determines its answer."""
        image = prompt.image.fingerprint()
        identity = self.backend_settings.identity(self.backend.name)
        item = Item(prompt.id, prompt.text, prompt.image, prompt.id)
        requests = []
        for number in range(self.sample.samples):
            seed = int(sha256_json([self.seed, prompt.text, image, number])[:7], 16)
            sampling = self.sample.sampling(seed)
            digest = request_hash(item, image, sampling, self._weights, self.target.template, identity, number)
            requests.append(Request(digest, self.target.served, prompt.text, prompt.image, sampling))
        return requests

    def run(self, parts: Sequence[PromptPart], engine: Callable[[], Backend]) -> dict[str, str]:
        """Ask for every answer that is not in the parts' logs.

        Args:
            parts: of a set.
            engine: see `running`.

        Returns:
            Request id -> why it could not be answered.

        Raises:
            BadInputError: a question holds a control token, or is too long.
            HarnessError: the engine failed; what was answered is kept.
        """
        refused: dict[str, str] = {}
        total = sum(len(part.prompts) for part in parts) * self.sample.samples
        self.check_questions(parts)
        with progress("sampling answers", total) as advance:
            for part in parts:
                refused |= self.answer(part, engine, advance)
        return refused

    def is_open(self, parts: Sequence[PromptPart]) -> bool:
        """Whether an answer is missing. No log is begun."""
        for part in parts:
            if not (part.folder / LOG).exists():
                return True
            with ResponseLog(part.folder) as log:
                if any(log.get(prompt.id, one.id) is None for prompt in part.prompts for one in self.requests(prompt)):
                    return True
        return False

    def answer(
        self, part: PromptPart, engine: Callable[[], Backend], advance: Callable[[int], None] = lambda count: None
    ) -> dict[str, str]:
        """Ask for the answers of one part that are not in its log.

        Args:
            part: its questions were checked.
            engine: see `running`; it is not called if nothing is missing.
            advance: called with the number of new answers, those in the log first.

        Returns:
            Request id -> why it could not be answered.

        Raises:
            HarnessError: the engine failed; what was answered is kept.
        """
        refused: dict[str, str] = {}
        answered_by = functools.cache(self.target.answered_by)
        with ResponseLog(part.folder) as log:
            asked = [(prompt, request) for prompt in part.prompts for request in self.requests(prompt)]
            owners = {request.id: prompt.id for prompt, request in asked}
            missing = [one for prompt, one in asked if log.get(prompt.id, one.id) is None]
            advance(len(asked) - len(missing))
            for done in completions_of(engine(), missing) if missing else ():
                if done.refused is not None:
                    refused[done.id] = done.refused
                else:
                    log.add(owners[done.id], done.id, done, self.backend.name, answered_by(done.model))
                advance(1)
        return refused

    @contextmanager
    def running(self, *, prepare: bool = False) -> Iterator[Callable[[], Backend]]:
        """Context with a function that returns the engine, which is started when it is first called. `prepare`: see `Backend.prepare`."""
        with ExitStack() as held:
            backend = engine_of([self.target], self.backend, self.backend_settings)
            if prepare:
                held.callback(backend.close)
                backend.prepare()
            yield functools.cache(lambda: held.enter_context(backend))

    def continued(
        self, begun: Sequence[Begun], folder: Path, engine: Callable[[], Backend]
    ) -> Iterator[tuple[str, Response | None]]:
        """Let the model continue answers, with the sampling of the candidates; see `judging.candidates.Continue`.

        Args:
            begun: the answers.
            folder: of the log.
            engine: see `running`; it is not called if nothing is missing.

        Raises:
            HarnessError: the engine failed; what was answered is kept.
        """
        identity = self.backend_settings.identity(self.backend.name)
        requests: dict[str, Request] = {}
        owners: dict[str, list[str]] = {}
        for answer in begun:
            image = NO_IMAGE if answer.image is None else answer.image
            sampling = self.sample.sampling(answer.seed)
            asked = [answer.question, image.fingerprint(), sampling.model_dump(), self._weights]
            ends = [list(answer.stop)] if answer.stop else []
            digest = sha256_json([*asked, self.target.template, identity, answer.beginning, *ends])
            where = (self.target.served, answer.question, image, sampling)
            requests[digest] = Request(digest, *where, beginning=answer.beginning, stop=answer.stop)
            owners.setdefault(digest, []).append(answer.id)
        with ResponseLog(folder) as log:
            missing = [request for name, request in requests.items() if log.get("", name) is None]
            for done in completions_of(engine(), missing) if missing else ():
                if done.refused is None:
                    log.add("", done.id, done, self.backend.name, self.target.answered_by(done.model))
            for digest, names in owners.items():
                for name in names:
                    yield name, log.get("", digest)

    def check_questions(self, parts: Sequence[PromptPart]) -> None:
        """Refuse questions that cannot be asked.

        Raises:
            BadInputError: a question holds a control token, or is too long.
        """
        processor = None if self.target.remote else load_processor(self.target.base)
        prompts = [prompt for part in parts for prompt in part.prompts]
        for prompt in prompts:
            refuse_control({"the question": prompt.text}, processor, f"prompt {prompt.id}")
        if processor is not None:
            longest = max(prompts, key=lambda prompt: len(prompt.text))
            check_context(self.requests(longest), self.target.base, self.backend_settings, processor)

    def answers(self, part: PromptPart) -> Iterator[tuple[Prompt, list[tuple[int, Response]]]]:
        """Yield (prompt, its numbered answers) of a part, from its log."""
        with ResponseLog(part.folder) as log:
            for prompt in part.prompts:
                found = [log.get(prompt.id, request.id) for request in self.requests(prompt)]
                yield prompt, [(number, answer) for number, answer in enumerate(found) if answer is not None]

    def answered_by(self, parts: Sequence[PromptPart]) -> str:
        """The model name that an endpoint reported; "" for local weights.

        Raises:
            HarnessError: several models answered.
        """
        answered: Counter[str] = Counter()
        for part in parts:
            with ResponseLog(part.folder) as log:
                records = (
                    log.record(prompt.id, request.id) for prompt in part.prompts for request in self.requests(prompt)
                )
                answered.update(record.model for record in records if record is not None)
        models = answered.elements()
        return one_model(
            models, self.target.base, "these prompts", parts[0].folder.parent, "into another folder with -o"
        )
