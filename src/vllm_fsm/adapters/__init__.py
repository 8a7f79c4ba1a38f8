"""The shells: each module does one thing to one piece of the world and posts the outcome as an event.

An adapter decides nothing and knows no other adapter, except for the helpers that have no state (`procfs`, `http`).
"""
