"""Stands in for SGLang: `python -m sglang.launch_server` with this directory's parent on PYTHONPATH."""
