"""Language tools for several packages: word tokens, word forms, WordNet."""
