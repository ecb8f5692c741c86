"""What everything else stands on: errors, files, settings, the registry, images, shared types. No torch, no spaCy at import."""
