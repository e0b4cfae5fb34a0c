"""``/openapi.json`` and ``/docs``: the files that `make docs` writes, without paths that are not served."""

import base64
import functools
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from aiohttp import web

from revoker.api.caching import cacheable_response
from revoker.api.well_known import METADATA

JSON_PATH: Final = "/openapi.json"
DOCS_PATH: Final = "/docs"

_FOLDER: Final = importlib.resources.files("revoker.api")
_schemas_in: Final = re.compile(r'"#/components/schemas/(\w+)"').findall
_id_of_block: Final = re.compile(r'<(?:section|h2) id="([^"]+)"|<li><a href="#([^"]+)"').match

Json = dict[str, Any]


def routes(served: Collection[str]) -> list[web.RouteDef]:
    """Both routes; the files are read when they are first asked for.

    Args:
        served: The paths of all other routes.
    """
    describe = functools.cache(lambda: document({*served, JSON_PATH, DOCS_PATH}))
    text = functools.partial(json.dumps, ensure_ascii=False)
    return [
        web.get(JSON_PATH, _fixed(lambda: (text(describe()), {}), "application/json")),
        web.get(DOCS_PATH, _fixed(lambda: page(describe()), "text/html")),
    ]


def _fixed(make: Callable[[], tuple[str, Mapping[str, str]]], media_type: str) -> Any:
    """A handler whose body, made once, stays the same; caches may ask whether it has changed."""
    make = functools.cache(make)

    async def respond(request: web.Request) -> web.Response:
        body, headers = make()
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **headers}
        return cacheable_response(request, body.encode(), media_type, headers)

    return respond


def document(served: Collection[str]) -> Json:
    """The OpenAPI document of these paths, with the schemas that they use."""
    whole: Json = json.loads((_FOLDER / "openapi.json").read_bytes())
    metadata = [path for path in served if path.startswith(METADATA)]
    paths: Json = {}
    for path, operations in whole["paths"].items():
        if path == METADATA:
            paths |= {alias: _at(alias, operations) for alias in sorted(metadata)}
        elif path in served:
            paths[path] = operations
    schemas = whole["components"]["schemas"]
    unused = _reachable(whole["paths"], schemas) - _reachable(
        [paths, whole["components"]["responses"]], schemas
    )
    for name in unused:
        del schemas[name]
    return {**whole, "paths": paths}


def _at(path: str, operations: Json) -> Json:
    """Operations moved to another path."""
    return {
        method: {**operation, "operationId": operation_id(method, path)}
        for method, operation in operations.items()
    }


def operation_id(method: str, path: str) -> str:
    """The id of an operation in the document, and of its section on the page."""
    return re.sub(r"\W+", "_", f"{method}{path}")


def _reachable(value: Any, schemas: Json) -> set[str]:
    """The schemas that a part of the document refers to, directly or through others."""
    found: set[str] = set()
    new = set(_schemas_in(json.dumps(value)))
    while new:
        found |= new
        new = set(_schemas_in(json.dumps([schemas[name] for name in new]))) - found
    return found


def page(document: Json) -> tuple[str, Mapping[str, str]]:
    """The page that shows a document, and its headers: it may use its own style and nothing else.

    Every block of the written page is one line, and bears the id of an operation, a schema or a tag.
    """
    ids = set(document["components"]["schemas"])
    aliases: dict[str, str] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            ids |= {operation["operationId"], *operation["tags"]}
        if path.startswith(METADATA):
            aliases[operation_id("get", path)] = path
    lines: list[str] = []
    original = operation_id("get", METADATA)
    for line in (_FOLDER / "docs.html").read_text(encoding="utf-8").splitlines(keepends=True):
        block = _id_of_block(line)
        name = block and (block[1] or block[2])
        if name == original:
            lines += [
                line.replace(original, alias).replace(METADATA, html.escape(path))
                for alias, path in aliases.items()
            ]
        elif name is None or name in ids:
            lines.append(line)
    text = "".join(lines)
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
