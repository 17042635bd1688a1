"""Which bundle each device of a group gets, and how an operator changes that: pure functions of what the group's pointer says.

`stable` is the bundle of all devices, `candidate` the one that a `share` of them gets first, `previous` the stable one before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pipelines_lib.errors import BadInput

Pointer = dict[str, Any]
NOTHING: Pointer = {"stable": None, "candidate": None, "previous": None, "share": 0.0}
"""Before the first release."""
_SHARES = 10_000


def meant_for(device: str, pointer: Mapping[str, Any]) -> str:
    """The bundle that `device` gets."""
    candidate = pointer["candidate"]
    return str(candidate if candidate is not None and within(device, candidate, pointer["share"]) else pointer["stable"])


def within(device: str, bundle: str, share: float) -> bool:
    """Whether `device` is among the `share` (0 to 1) of devices that get `bundle` first.

    A wider share holds all devices of a narrower one; another bundle tries itself on others.
    """
    place = int.from_bytes(hashlib.sha256(f"{bundle}\n{device}".encode()).digest()[:8]) % _SHARES
    return place < round(share * _SHARES)


def offered(pointer: Pointer, bundle: str, share: float) -> Pointer:
    """`bundle` for a share of devices; the first bundle of a group, or a share of 1, is for all. What is offered already is left as it is."""
    # What was widened meanwhile stays so when the same release is made again.
    if pointer["stable"] == bundle or (pointer["candidate"] == bundle and share <= pointer["share"]):
        return pointer
    if pointer["stable"] is None or share >= 1:
        return _for_all(pointer, bundle)
    return {**pointer, "candidate": bundle, "share": share}


def widened(pointer: Pointer, share: float) -> Pointer:
    """The candidate for a share of devices; with 1 it becomes the stable bundle. Raises `BadInput` where there is none."""
    if pointer["candidate"] is None:
        raise BadInput("there is no candidate to widen; release one")
    return _for_all(pointer, pointer["candidate"]) if share >= 1 else {**pointer, "share": share}


def taken_back(pointer: Pointer) -> Pointer:
    """No device gets the candidate; where there is none, all get the stable bundle before. Raises `BadInput` where there is neither."""
    if pointer["candidate"] is not None:
        return {**pointer, "candidate": None, "share": 0.0}
    if pointer["previous"] is None:
        raise BadInput("there is nothing to go back to; release another version")
    return {**pointer, "stable": pointer["previous"], "previous": None}


def _for_all(pointer: Pointer, bundle: str) -> Pointer:
    return {**pointer, "stable": bundle, "previous": pointer["stable"], "candidate": None, "share": 0.0}
