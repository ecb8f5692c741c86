"""Where the data of benchmarks and preference sets comes from: sources, downloads, checks, imports."""
