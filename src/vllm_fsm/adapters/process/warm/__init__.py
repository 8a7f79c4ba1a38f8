"""A process that has imported what the next engine will need, and becomes that engine: see `docs/warm.md`.

`parent` is a program of its own, run by the engine's interpreter; `keeper` decides when there is one.
"""
