"""Responses that caches may store and revalidate (RFC 9110 §8.8.3, §13.1.2)."""

import hashlib
from collections.abc import Mapping

from aiohttp import web


def cacheable_response(
    request: web.Request, body: bytes, content_type: str, headers: Mapping[str, str]
) -> web.Response:
    """The body with its ``ETag``, or 304 for a client that has it."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    all_headers = {**headers, "ETag": f'"{tag}"'}
    if any(sent.value in {tag, "*"} for sent in request.if_none_match or ()):
        return web.Response(status=304, headers=all_headers)
    return web.Response(body=body, content_type=content_type, headers=all_headers)
