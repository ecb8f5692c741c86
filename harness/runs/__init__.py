"""Runs: folders, manifests, locking, and the targets of evaluations."""
