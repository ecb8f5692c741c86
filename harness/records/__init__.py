"""Typed records of the files of a run: manifests, score records, answers, and compact counts of items."""
