"""Answers that caches may keep, and ask about again (RFC 9110 §8.8.3, §13.1.2)."""

import hashlib
from collections.abc import Mapping

from aiohttp import web


def unless_known(
    request: web.Request, body: bytes, content_type: str, headers: Mapping[str, str]
) -> web.Response:
    """The body, or 304 to one who has it already."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    told = {**headers, "ETag": f'"{tag}"'}
    if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=told)
    return web.Response(body=body, content_type=content_type, headers=told)
