"""Put on PYTHONPATH: a Python in which the packages that `HARNESS_TEST_WITHOUT` names are not installed."""

import importlib.machinery
import os

_WITHOUT = frozenset(os.environ.get("HARNESS_TEST_WITHOUT", "").split(","))
_find_spec = importlib.machinery.PathFinder.find_spec


def _find(name, path=None, target=None):
    return None if name.partition(".")[0] in _WITHOUT else _find_spec(name, path, target)


importlib.machinery.PathFinder.find_spec = staticmethod(_find)
