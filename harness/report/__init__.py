"""`harness report`: one self-contained HTML file of what was scored, with the pictures and the words behind the numbers."""

from harness.report.page import write_document, write_leaderboard, write_report

__all__ = ["write_document", "write_leaderboard", "write_report"]
