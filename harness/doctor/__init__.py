"""`harness doctor`: what is installed and works, each line with its remedy. Checks that may crash or hang run in a child process."""

from harness.doctor.examine import examine
from harness.doctor.line import Line

__all__ = ["Line", "examine"]
