"""Faster layers with the same results. Each can be switched off (`train.savings`)."""
