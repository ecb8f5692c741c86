"""`harness report`: one self-contained HTML file with scores, pictures and answers."""

from harness.reports.page import charts_and_tables, write_document, write_leaderboard, write_report

__all__ = ["charts_and_tables", "write_document", "write_leaderboard", "write_report"]
