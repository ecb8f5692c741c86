"""For authors of plugins: checks of a method or a benchmark, and a package to begin with."""

from harness.development.method_checks import check_method
from harness.development.scaffold import new_plugin
from harness.development.suite_checks import check_benchmark

__all__ = ["check_benchmark", "check_method", "new_plugin"]
