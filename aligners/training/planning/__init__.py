"""Planning a run before it starts: memory, disk, time, packages."""
