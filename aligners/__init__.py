"""Preference-optimisation methods: one short file a method, one trainer for all."""
