"""Language tools that several sides use: word tokens, word forms, WordNet."""
