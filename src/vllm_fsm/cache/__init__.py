"""The models in the cache: what they take up, whether anything needs them, and how they are deleted.

`contents` lists them, `removal` deletes one, `use` says which are needed.
"""

from __future__ import annotations

from vllm_fsm.cache.contents import CachedModel, Leftover, Listing, State, listing
from vllm_fsm.cache.refused import Refused
from vllm_fsm.cache.removal import Deleted, delete
from vllm_fsm.cache.use import Use, lacks_room, use

__all__ = [
    "CachedModel",
    "Deleted",
    "Leftover",
    "Listing",
    "Refused",
    "State",
    "Use",
    "delete",
    "lacks_room",
    "listing",
    "use",
]
