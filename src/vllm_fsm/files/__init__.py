"""The files between people, programs and the controller: read with bounds, judged in words, written atomically.

`reading` turns a path into content or a problem, `writing` puts a JSON object in a file's place, `store` and
`credentials` say what the two files hold. This package imports nothing
by itself, so that a command which needs one of them does not pay for pydantic.
"""
