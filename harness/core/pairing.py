"""Which items a paired comparison can use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence


def paired_items(runs: Sequence[Mapping[str, str]], *, whole_groups: bool = False) -> set[str]:
    """The items on which runs can be compared in pairs.

    Args:
        runs: the scored items of each, id -> cluster (the image, or the set of questions that is resampled as a whole).
        whole_groups: as the benchmark declares it. Its counts of groups ("both answers to an image are right") belong to one item of the
            group. A run that lacks an item of a group has no such count, while a run with the whole group keeps it if only single items
            are left out. So the clusters are left out whose items are not the same in all runs.
    """
    shared = set.intersection(*(set(items) for items in runs))
    if not whole_groups:
        return shared
    differing: set[str] = set()
    for items in runs:
        clusters: dict[str, set[str]] = defaultdict(set)
        for item, cluster in items.items():
            clusters[cluster].add(item)
        differing |= {cluster for cluster, members in clusters.items() if not members <= shared}
    return {item for item in shared if not any(items[item] in differing for items in runs)}
