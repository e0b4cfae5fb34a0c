"""Reads a snapshot of the feed into a copy of the store."""

import asyncio
import time
from typing import Final

import aiohttp
import msgspec

from revoker.errors import InvalidRequest, StoreRefused
from revoker.store.mirror import feed_lines
from revoker.store.mirror.copy import Copy
from revoker.store.mirror.feed_lines import FeedBroken
from revoker.store.mirror.mirror import Mirror

SNAPSHOT_SILENCE_S: Final = 10.0
"""A snapshot that has begun is given up after this time without data."""

SLICE_S: Final = 0.0005
"""How long a snapshot is read at a time; requests are answered in between."""


async def read_snapshot(response: aiohttp.ClientResponse, mirror: Mirror) -> tuple[feed_lines.Head, Copy]:
    """Raises ``FeedBroken`` unless all of it is there and is understood."""
    head: feed_lines.Head | None = None
    copy = Copy(mirror.keys, mirror.issuers)
    count, rest = 0, b""
    now = mirror.expiry_now
    chunks = response.content.iter_any()
    try:
        while True:
            async with asyncio.timeout(SNAPSHOT_SILENCE_S):
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if not newline:
                continue
            if head is None:
                first, _, whole = whole.partition(b"\n")
                head = feed_lines.decode_head(first)
                if head.format != feed_lines.FORMAT:
                    raise FeedBroken(f"the snapshot has the format {head.format}; update this edge")
                prefix = head.key_prefix if head.clustered else ""
                copy = Copy(mirror.keys, mirror.issuers, prefix)
            # the last complete line waits for the next: it may be the end
            whole, _, last = whole.rpartition(b"\n")
            rest = last + b"\n" + rest if last else rest
            count += await _add_lines(copy, whole, now)
        if head is None:
            raise FeedBroken("the snapshot is empty")
        end = feed_lines.decode_end(rest)
    except (msgspec.MsgspecError, InvalidRequest, StoreRefused, UnicodeDecodeError) as error:
        raise FeedBroken(f"the snapshot is incomplete, or not understood: {error}") from error
    if not end.end or end.lines != count:
        raise FeedBroken(f"the snapshot has {count} lines, and says that it has {end.lines}")
    return head, copy


async def _add_lines(copy: Copy, whole: bytes, now: int) -> int:
    lines = feed_lines.decode_lines(whole)
    until = time.perf_counter() + SLICE_S
    for line in lines:
        copy.add(line, now)
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_S
    return len(lines)
