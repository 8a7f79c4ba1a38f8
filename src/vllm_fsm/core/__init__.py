"""The decisions: pure functions from a snapshot and an event to a snapshot and effects.

Nothing in this package asks the clock, draws a random number, opens a file or writes a log line.
Read in this order: `states`, `snapshot`, `events`, `effects`, `table`, `guards`, `reactions`, `policy`, `machine`.
"""
