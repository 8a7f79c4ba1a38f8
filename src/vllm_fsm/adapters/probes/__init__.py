"""Asking the engine: who listens, is it ready, does it live, does it step.

`prober` is the adapter; `readiness` and `liveness` are its two acts, `pace` their numbers; the rest has no state.
"""
