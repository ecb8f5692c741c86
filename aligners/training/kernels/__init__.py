"""Faster layers with the same results. Every one of them can be switched off (`train.savings`)."""
