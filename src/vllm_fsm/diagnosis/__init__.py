"""What the end of an engine means: from its output, its exit status and what we did to it, to one finding.

The output is read as it streams, in bounded memory, by how it is built: `lines` takes a line apart, `tracebacks` finds
the exceptions that a process reports, `causes` holds what is known of them as a table, `stream` keeps the earliest
cause of an attempt, and `ending` weighs it against the exit status. `execution` explains an engine that never ran.
Nothing here reads a file or a clock.
"""
