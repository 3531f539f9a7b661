"""The log of a process, and the events of tasks in it."""
