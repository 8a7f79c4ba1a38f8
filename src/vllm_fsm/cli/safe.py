"""What commands print of texts that others had a say in: nothing that a terminal obeys.

Light: `vllm-fsm health` imports it. What takes control sequences apart is loaded only for a text that has some.
"""

import json


def line(text: str) -> str:
    """Return `text` without what a terminal would obey, in one line."""
    if text.isprintable():
        return text
    from vllm_fsm.redaction import plain

    return plain(text).replace("\n", " ")


def as_json(value: object, indent: int | None = None) -> str:
    """Return `value` as JSON: readable, or all of it in ASCII where a character could not be printed as it is."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # Only the line ends between the fields are not printable there: JSON escapes those within a text.
    return text if text.replace("\n", "").isprintable() else json.dumps(value, indent=indent)
