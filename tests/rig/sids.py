"""Session ids as the service makes them, for any start and user."""

import base64
import struct


def new_sid(start_ms: int, tag: str, random: bytes) -> str:
    """A ``sid`` of 48 bits of time, the user's tag and 80 random bits."""
    start = struct.pack(">HI", start_ms >> 32, start_ms & 0xFFFFFFFF)
    return base64.urlsafe_b64encode(start + base64.urlsafe_b64decode(tag) + random).rstrip(b"=").decode()
