"""Directories that are used unless a flag names others. Light: commands that must be quick import it."""

DATA = "/data"
PUBLIC = "/public"
RUN_DIR = "/run/vllm-fsm"
STATE = ".vllm-fsm"
"""Below the data directory."""
