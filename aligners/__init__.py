"""Preference-optimisation methods: one short file per method, one trainer for all."""
