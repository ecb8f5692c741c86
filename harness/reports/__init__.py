"""`harness report`: one self-contained HTML file with scores, pictures and answers."""

from harness.reports.page import write_document, write_leaderboard, write_report

__all__ = ["write_document", "write_leaderboard", "write_report"]
