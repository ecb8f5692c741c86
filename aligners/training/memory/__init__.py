"""How much memory a training takes: counted from the architecture, and what fits."""
