"""``/openapi.json`` and ``/docs``: the document that `make docs` writes, and Swagger UI, which shows it.

Swagger UI comes with the extra ``docs``. Without it, ``/docs`` says where else the document can be read.

The document leaves out the paths that are not served.
"""

import functools
import importlib.metadata
import importlib.resources
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from revoker.api.caching import cacheable_response
from revoker.api.well_known import METADATA

JSON_PATH: Final = "/openapi.json"
DOCS_PATH: Final = "/docs"
_OF_SWAGGER_UI: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
ASSETS: Final = _OF_SWAGGER_UI | {
    "accessible.css": "text/css",
    "accessible.js": "text/javascript",
    "start.js": "text/javascript",
}
"""Files below ``DOCS_PATH``, with their media types, where there is Swagger UI."""

_FOLDER: Final = importlib.resources.files("revoker.api")
_PAGE: Final = _FOLDER / "docs_page"
_PAGE_HEADERS: Final = {
    # Images of the style sheet are data URLs; "try it" and the document itself are requests to this service.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
_schemas_in: Final = re.compile(r'"#/components/schemas/(\w+)"').findall
_responses_in: Final = re.compile(r'"#/components/responses/(\w+)"').findall

Json = dict[str, Any]


def routes(served: Collection[str], *, requests_elsewhere: bool = False) -> list[web.RouteDef]:
    """The routes of document and page; their files are read when they are first asked for.

    Args:
        served: The paths of all other routes.
        requests_elsewhere: Whether the paths are served on another port than the page.
    """

    def text() -> bytes:
        described = document({*served, JSON_PATH, DOCS_PATH})
        if requests_elsewhere:
            described["info"]["description"] += _ON_OPS_PORT
        return json.dumps(described, ensure_ascii=False).encode()

    swagger_ui = _swagger_ui()
    page = (_PAGE / ("index.html" if swagger_ui else "without_swagger_ui.html")).read_bytes
    assets = [web.get(f"{DOCS_PATH}/{name}", _fixed(read, ASSETS[name])) for name, read in swagger_ui.items()]
    return [
        web.get(JSON_PATH, _fixed(text, "application/json")),
        web.get(DOCS_PATH, _fixed(page, "text/html", _PAGE_HEADERS)),
        *assets,
    ]


def _swagger_ui() -> dict[str, Callable[[], bytes]]:
    """What reads each of the assets; empty where the extra is not installed.

    The files are found without importing their package, which imports Flask.
    """
    try:
        folder = Path(
            str(importlib.metadata.distribution("flask-swagger-ui").locate_file(_SWAGGER_UI_FOLDER))
        )
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {name: ((folder if name in _OF_SWAGGER_UI else _PAGE) / name).read_bytes for name in ASSETS}


_SWAGGER_UI_FOLDER: Final = "flask_swagger_ui/dist"
_ON_OPS_PORT: Final = (
    "\n\nThis document is served on the port for operations. Requests to the other paths must go to the main "
    "port, so this page cannot send them."
)


def _fixed(make: Callable[[], bytes], media_type: str, headers: Mapping[str, str] | None = None) -> Any:
    """A handler whose body, made once, stays the same; caches may ask whether it has changed."""
    make = functools.cache(make)
    all_headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **(headers or {})}

    async def respond(request: web.Request) -> web.Response:
        return cacheable_response(request, make(), media_type, all_headers)

    return respond


def document(served: Collection[str]) -> Json:
    """The OpenAPI document of these paths, with the responses and schemas that they use."""
    whole: Json = json.loads((_FOLDER / "openapi.json").read_bytes())
    metadata = [path for path in served if path.startswith(METADATA)]
    paths: Json = {}
    for path, operations in whole["paths"].items():
        if path == METADATA:
            paths |= {alias: _at(alias, operations) for alias in sorted(metadata)}
        elif path in served:
            paths[path] = operations
    components = whole["components"]
    used_responses = set(_responses_in(json.dumps(paths)))
    responses = {name: value for name, value in components["responses"].items() if name in used_responses}
    used_schemas = _reachable([paths, responses], components["schemas"])
    schemas = {name: value for name, value in components["schemas"].items() if name in used_schemas}
    return {
        **whole,
        "paths": paths,
        "components": {**components, "responses": responses, "schemas": schemas},
    }


def _at(path: str, operations: Json) -> Json:
    """Operations moved to another path."""
    return {
        method: {**operation, "operationId": operation_id(method, path)}
        for method, operation in operations.items()
    }


def operation_id(method: str, path: str) -> str:
    """The id of an operation in the document."""
    return re.sub(r"\W+", "_", f"{method}{path}")


def _reachable(value: Any, schemas: Json) -> set[str]:
    """The schemas that a part of the document refers to, directly or through others."""
    found: set[str] = set()
    new = set(_schemas_in(json.dumps(value)))
    while new:
        found |= new
        new = set(_schemas_in(json.dumps([schemas[name] for name in new]))) - found
    return found
