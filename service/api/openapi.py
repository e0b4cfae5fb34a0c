"""``/openapi.json`` and ``/docs``: what can be asked here, told from the types that the handlers use."""

import copy
import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from aiohttp import web

from service import __version__
from service.api import batch, docs, introspection, probes, revocation
from service.api.endpoint import Endpoint
from service.api.errors import REPLIES, ErrorBody

JSON_PATH: Final = "/openapi.json"
DOCS_PATH: Final = "/docs"

Json = dict[str, Any]

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_ANY_CALLER: Final = (400, 401, 403, 413, 415, 429, 500, 503)
_SECTIONS: Final = {
    "introspect": "Introspection",
    "revoke": "Revocation",
    "revoke-all": "Revocation",
    "sessions": "Sessions",
}
_DESCRIPTION: Final = (
    "Makes a JWT stop being valid before it expires. A token is revoked when its `jti` is listed, or when "
    "it was issued at or before a cutoff kept for its user, session, client or issuer.\n\n"
    "Callers authenticate with HTTP Basic, with their secret as a Bearer token, with `client_id` and "
    "`client_secret` in a form, or with a client certificate. Members that are not named here are ignored; "
    "a member that stands twice is refused."
)


class TokenForm(msgspec.Struct, frozen=True):
    """A token, as RFC 7662 §2.1 sends it."""

    token: Annotated[str, msgspec.Meta(min_length=1)]
    token_type_hint: str | None = None


class Alive(msgspec.Struct, frozen=True):
    """The process answers; the store is not looked at."""

    status: Literal["ok"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        scope: What a caller needs; None: anybody may ask.
        body: The type read from JSON; None: there is no body.
        form: The type read from a form; None: no form is read.
        answers: The type of the body by status; None: it is empty.
        media: The type of the answers' body where they are not JSON.
        errors: Statuses with the OAuth error object.
    """

    path: str
    method: str = "post"
    summary: str
    scope: str | None
    body: Any = None
    form: Any = None
    answers: Mapping[int, Any]
    media: str = _JSON
    errors: tuple[int, ...] = _ANY_CALLER

    @classmethod
    def of(cls, endpoint: Endpoint[Any]) -> "Operation":
        """What an endpoint declares of itself."""
        return cls(
            path=endpoint.path,
            summary=endpoint.summary,
            scope=endpoint.scope,
            body=endpoint.body,
            form=endpoint.body if endpoint.form else None,
            answers={200: endpoint.answer},
            errors=(*_ANY_CALLER, *endpoint.errors),
        )


INTROSPECTION: Final = (
    Operation(
        path=introspection.PATH,
        summary="Tell whether a token is active (RFC 7662)",
        scope=introspection.SCOPE,
        body=introspection.Introspect,
        form=TokenForm,
        answers={200: introspection.Active},
    ),
    Operation(
        path=batch.PATH,
        summary="Tell it of up to 1,000 tokens, with one look at the store",
        scope=introspection.SCOPE,
        body=batch.Batch,
        answers={200: batch.Results},
    ),
)
OPERATIONS: Final = (
    Operation(
        path="/livez",
        method="get",
        summary="Whether the process answers",
        scope=None,
        answers={200: Alive},
        errors=(),
    ),
    Operation(
        path="/readyz",
        method="get",
        summary="Whether requests should come here, and what is wrong",
        scope=None,
        answers={200: probes.Readiness, 503: probes.Readiness},
        errors=(),
    ),
    Operation(
        path="/metrics",
        method="get",
        summary="Metrics for Prometheus",
        scope=None,
        answers={200: str},
        media="text/plain",
        errors=(),
    ),
    Operation(
        path=JSON_PATH,
        method="get",
        summary="This document",
        scope=None,
        answers={200: dict[str, Any]},
        errors=(),
    ),
    Operation(
        path=DOCS_PATH,
        method="get",
        summary="This document, to be read by people",
        scope=None,
        answers={200: str},
        media="text/html",
        errors=(),
    ),
)

_WAYS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    introspection.Introspect.__name__: (("token",), ("jti", "sub", "iat", "exp")),
    revocation.Revoke.__name__: (("token",), ("jti",)),
}
"""Where one set of members or another must be there: which types can't say."""


def document(endpoints: Iterable[Endpoint[Any]]) -> Json:
    """The OpenAPI 3.1 document of these endpoints, introspection, and what operators ask for."""
    operations = (*INTROSPECTION, *(Operation.of(each) for each in endpoints), *OPERATIONS)
    schemas = _Schemas(operations)
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Revoker", "version": __version__, "description": _DESCRIPTION},
        "tags": [{"name": name} for name in dict.fromkeys((*_SECTIONS.values(), "Operations"))],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": _error_responses(schemas),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "A caller's name and secret."},
                "bearer": {"type": "http", "scheme": "bearer", "description": "A caller's secret alone."},
            },
        },
    }


def routes(endpoints: Iterable[Endpoint[Any]]) -> list[web.RouteDef]:
    """Both routes; they stand on ``ops_port`` where that is set."""
    told = document(endpoints)
    page = docs.page(told)
    policy = {"Content-Security-Policy": docs.POLICY, "Referrer-Policy": "no-referrer"}
    return [
        web.get(JSON_PATH, _fixed(msgspec.json.encode(told), _JSON, {})),
        web.get(DOCS_PATH, _fixed(page.encode(), "text/html", policy)),
    ]


def _fixed(body: bytes, media: str, headers: Mapping[str, str]) -> Any:
    """A handler of what stays the same while the process lives; caches ask whether it did."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    kept = {
        "ETag": f'"{tag}"',
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        **headers,
    }

    async def respond(request: web.Request) -> web.Response:
        if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
            return web.Response(status=304, headers=kept)
        charset = "utf-8" if media.startswith("text/") else None
        return web.Response(body=body, content_type=media, charset=charset, headers=kept)

    return respond


class _Schemas:
    """The schemas of all types that operations name.

    Attributes:
        components: Those that have a name.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = [ErrorBody]
        for each in operations:
            types += [each.body, each.form, *each.answers.values()]
        types = [each for each in types if each is not None]
        made, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        self.components: Json = {name: _tidied(components[name]) for name in sorted(components)}
        for name, ways in _WAYS.items():
            if name in self.components:
                self.components[name] = _with_ways(self.components[name], ways)
        self._by_type = [(kind, _tidied(schema)) for kind, schema in zip(types, made, strict=True)]

    def of(self, kind: Any) -> Json:
        return next(schema for each, schema in self._by_type if each is kind)

    def form_of(self, kind: Any) -> Json:
        """As :meth:`of`, for fields of a form: each has one value, and an empty one is absent."""
        schema: Json = _without(("null", "array"), copy.deepcopy(self.components[kind.__name__]))
        for name, member in schema["properties"].items():
            if name not in schema.get("required", ()):
                member.pop("minLength", None)
        return {**schema, "additionalProperties": {"type": "string"}}


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    told: Json = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method}{operation.path}"),
        "tags": [_SECTIONS[operation.scope] if operation.scope else "Operations"],
        "summary": operation.summary,
    }
    if operation.scope is None:
        told["security"] = []
    else:
        told["description"] = f"Needs the scope `{operation.scope}`."
        told["security"] = [{"basic": []}, {"bearer": []}]
    if operation.body is not None:
        content = {_JSON: {"schema": schemas.of(operation.body)}}
        if operation.form is not None:
            content[_FORM] = {"schema": schemas.form_of(operation.form)}
        told["requestBody"] = {"required": True, "content": content}
    answers = {str(status): _answer(status, operation, schemas) for status in operation.answers}
    errors = {str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in operation.errors}
    told["responses"] = dict(sorted({**errors, **answers}.items()))
    return told


def _answer(status: int, operation: Operation, schemas: _Schemas) -> Json:
    kind = operation.answers[status]
    if kind is None:
        return {"description": f"{HTTPStatus(status).phrase}; the body is empty."}
    schema = schemas.of(kind)
    return {
        "description": f"{HTTPStatus(status).phrase}.",
        "content": {operation.media: {"schema": schema}},
    }


def _error_responses(schemas: _Schemas) -> Json:
    """One response a status, told from the table that the service answers by."""
    by_status: dict[int, list[str]] = {500: ["`server_error`: the service failed."]}
    headers: dict[int, set[str]] = {}
    for error, reply in REPLIES.items():
        meaning = inspect.cleandoc(error.__doc__ or "").splitlines()[0]
        by_status.setdefault(reply.status, []).append(f"`{reply.error}`: {_markdown(meaning)}")
        headers.setdefault(reply.status, set()).update(reply.headers)
    responses = {}
    for status, meanings in sorted(by_status.items()):
        response: Json = {
            "description": "\n".join(f"- {each}" for each in meanings),
            "content": {_JSON: {"schema": schemas.of(ErrorBody)}},
        }
        if headers.get(status):
            response["headers"] = {
                name: {"schema": {"type": "string"}, "required": True} for name in sorted(headers[status])
            }
        responses[_name(status)] = response
    return responses


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")


def _tidied(schema: Any) -> Any:
    """The schema as a reader would have written it."""
    if isinstance(schema, list):
        return [_tidied(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: _tidied(value) for name, value in schema.items() if (name, value) != ("required", [])}
    if told.get("default", "") is None:
        del told["default"]
    if "anyOf" in told:
        ways = told["anyOf"]
        if {"type": "integer"} in ways and {"type": "number"} in ways:
            ways.remove({"type": "integer"})
        if len(ways) == 1:
            told = {**told.pop("anyOf")[0], **told}
    if isinstance(told.get("description"), str):
        told["description"] = _markdown(inspect.cleandoc(told["description"]))
    return told


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _without(types: tuple[str, ...], schema: Any) -> Any:
    """The schema without some of the types that a member may have."""
    if isinstance(schema, list):
        return [_without(types, each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: _without(types, value) for name, value in schema.items()}
    if "anyOf" in told:
        told["anyOf"] = [way for way in told["anyOf"] if way.get("type") not in types]
        if len(told["anyOf"]) == 1:
            told = {**told.pop("anyOf")[0], **told}
    return told


def _with_ways(schema: Json, ways: tuple[tuple[str, ...], ...]) -> Json:
    """Demand one of several sets of members, none of them null or empty."""

    def present(name: str) -> Json:
        told = cast("Json", _without(("null",), copy.deepcopy(schema["properties"][name])))
        return {**told, "minLength": 1} if told.get("type") == "string" else told

    return {
        **schema,
        "anyOf": [
            {"required": list(way), "properties": {name: present(name) for name in way}} for way in ways
        ],
    }
