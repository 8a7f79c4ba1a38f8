"""What an engine will read from the hub's cache, and whether the cache holds it: pure, apart from reading the cache.

`needs` names the repositories, `selection` the files of each, `hub_cache` knows where they lie, `completeness` looks.
"""
