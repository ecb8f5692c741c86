"""Data sets of benchmarks and preference data: sources, downloads, checks, imports."""
