"""The way in for files: the watched folder, and the task file's own rules."""
