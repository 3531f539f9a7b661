"""What runs tasks: `nightcrew up` for as many as there are, `nightcrew run` for one."""

from nightcrew.service.service import Service, run_locks, run_one, serve

__all__ = ["Service", "run_locks", "run_one", "serve"]
