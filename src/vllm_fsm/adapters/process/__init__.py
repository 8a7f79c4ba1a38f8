"""The engine process: executed, recorded, leashed, watched, ended with everything that belongs to it.

`engine` is the adapter; `shim` and `guardian` are programs of their own; the rest is what they are made of.
"""
