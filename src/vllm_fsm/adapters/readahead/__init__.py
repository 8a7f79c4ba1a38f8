"""Reading weights into the page cache before the engine asks for them.

`readahead` decides from what it is told, the `reader` is the child that reads.
"""
