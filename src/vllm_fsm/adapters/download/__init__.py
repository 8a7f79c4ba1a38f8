"""Downloads: looked for in the cache, fetched by a child process, watched.

`downloader` is the adapter; `fetcher` is a program of its own, which alone imports huggingface_hub; the rest is what it
is made of.
"""
