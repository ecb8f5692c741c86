"""The requests that must be generated: each distinct request once, requests of one image together."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.evaluation.responses import ResponseLog, request_hash
from harness.evaluation.suites import Suite
from harness.runs.targets import Target
from harness.serving.base import Request

Key = tuple[str, str, int]
"""(target's name, suite's key, repeat)."""


@dataclass(frozen=True)
class Job:
    """One request to the engine and every (log, item) that it answers."""

    request: Request
    hash: str
    answers: list[tuple[ResponseLog, str]]


def request_hashes(
    targets: Sequence[Target], suites: Sequence[Suite], backend: str, repeats: int = 1
) -> dict[tuple[str, str, int, str], str]:
    """Request hash of every (target, suite, repeat, item)."""
    result = {}
    for target in targets:
        checkpoint, template = target.fingerprint, target.template
        for suite in suites:
            for item in suite.items:
                image = item.image.fingerprint()
                for repeat in range(repeats):
                    result[target.name, suite.key, repeat, item.id] = request_hash(
                        item, image, suite.sampling, checkpoint, template, backend, repeat
                    )
    return result


def pending(
    targets: Sequence[Target],
    suites: Sequence[Suite],
    logs: Mapping[Key, ResponseLog],
    hashes: Mapping[tuple[str, str, int, str], str],
    repeats: int = 1,
) -> list[Job]:
    """The jobs for all answers that are not in the logs.

    Requests of one image, from all suites, are adjacent, so that the engine's prefix cache contains it. A repeat takes the images in
    another order, so that its batches differ.
    """
    jobs: dict[str, Job] = {}
    places: dict[str, tuple[str, int, int]] = {}
    for repeat in range(repeats):
        images = list({item.image.fingerprint(): None for suite in suites for item in suite.items})
        if repeat:
            random.Random(repeat).shuffle(images)
        order = {image: place for place, image in enumerate(images)}
        for target, suite in itertools.product(targets, suites):
            key = (target.name, suite.key, repeat)
            sampling = suite.sampling.model_copy(update={"seed": suite.sampling.seed + repeat})
            for item in suite.items:
                digest = hashes[(*key, item.id)]
                if logs[key].get(item.id, digest) is not None:
                    continue
                if digest not in jobs:
                    request = Request(digest, target.served, item.prompt, item.image, sampling, choices=item.choices)
                    jobs[digest] = Job(request, digest, [])
                    places[digest] = (target.served, repeat, order[item.image.fingerprint()])
                jobs[digest].answers.append((logs[key], item.id))
    return sorted(jobs.values(), key=lambda job: places[job.hash])
