"""Foundations of all other packages: errors, files, settings, the registry, images, shared types. No torch, no spaCy at import."""
