"""Keep one vLLM server in the state that two files ask for."""

__version__ = "0.1.0"
