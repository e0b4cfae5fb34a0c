"""``/openapi.json`` and ``/docs``: what can be asked here, told from the types that the handlers use."""

import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from aiohttp import web

from revoker import __version__
from revoker.api import batch, docs, forward_auth, introspection, paths, probes, revocation, token, well_known
from revoker.api.caching import unless_known
from revoker.api.endpoint import LARGEST, Endpoint
from revoker.api.errors import REPLIES, ErrorBody
from revoker.models import Payload

JSON_PATH: Final = "/openapi.json"
DOCS_PATH: Final = "/docs"

Json = dict[str, Any]

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_ANY_CALLER: Final = (400, 401, 403, 413, 415, 429, 500, 503)
_OPERATIONS: Final = "Operations"
_SECTIONS: Final = {
    "introspect": "Introspection",
    "revoke": "Revocation",
    "revoke-all": "Revocation",
    "sessions": "Sessions",
}
"""By scope; what asks for none says itself where it belongs."""

_BY_SECRET: Final[tuple[Json, ...]] = ({"basic": []}, {"bearer": []})
_BY_ANYBODY: Final[tuple[Json, ...]] = ({}, *_BY_SECRET)
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
        section: Where it stands in the documentation.
        scope: What a caller needs; empty: none.
        security: The ways to authenticate, each enough.
        query: The type read from the query; None: there must be none.
        body: The type read from JSON; None: there is no body.
        form: The type read from a form; None: no form is read.
        headers: What is read from headers, beside credentials: what each means.
        answers: The type of the body by status; None: it is empty.
        told: Headers of those answers: what each means.
        media: The type of the answers' body where they are not JSON.
        errors: Statuses with the OAuth error object.
    """

    path: str
    method: str = "post"
    section: str
    summary: str
    scope: str = ""
    security: tuple[Json, ...] = ()
    query: Any = None
    body: Any = None
    form: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[int, Any]
    told: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    media: str = _JSON
    errors: tuple[int, ...] = ()

    @classmethod
    def of(cls, endpoint: Endpoint[Any]) -> "Operation":
        """What an endpoint declares of itself."""
        posted = endpoint.method == "POST"
        refused = _ANY_CALLER if posted else tuple(set(_ANY_CALLER) - {413, 415})
        unscoped = "Sessions" if endpoint.path == token.PATH else "Revocation"
        return cls(
            path=endpoint.path,
            method=endpoint.method.lower(),
            section=_SECTIONS.get(endpoint.scope, unscoped),
            summary=endpoint.summary,
            scope=endpoint.scope,
            security=_BY_SECRET if endpoint.scope else _BY_ANYBODY,
            query=None if posted else endpoint.body,
            body=endpoint.body if posted else None,
            form=endpoint.body if posted and endpoint.form else None,
            answers={endpoint.status: endpoint.answer},
            errors=(*refused, *endpoint.errors),
        )


INTROSPECTION: Final = (
    Operation(
        path=paths.INTROSPECT,
        section=_SECTIONS[introspection.SCOPE],
        summary="Tell whether a token is active (RFC 7662)",
        scope=introspection.SCOPE,
        security=_BY_SECRET,
        body=introspection.Introspect,
        form=TokenForm,
        answers={200: introspection.Active},
        errors=_ANY_CALLER,
    ),
    Operation(
        path=paths.BATCH,
        section=_SECTIONS[introspection.SCOPE],
        summary="Tell it of up to 1,000 tokens, with one look at the store",
        scope=introspection.SCOPE,
        security=_BY_SECRET,
        body=batch.Batch,
        answers={200: batch.Results},
        errors=_ANY_CALLER,
    ),
    Operation(
        path=paths.FORWARD_AUTH,
        method="get",
        section=_SECTIONS[introspection.SCOPE],
        summary="Tell a gateway whether its user's request may pass; any method, and any path below, will do",
        scope=forward_auth.SCOPE,
        security=({"gateway": [], "user": []},),
        headers={forward_auth.DEMANDS_HEADER: 'what the route demands: `scope="a b"; acr=mfa; max_age=300`'},
        answers={200: None, 401: None, 403: None},
        told={
            200: {
                "X-Auth-Subject": "the token's `sub`, percent-encoded",
                "X-Auth-Session": "its `sid`, or empty",
                "X-Auth-Client": "its `client_id` or `azp`, or empty",
                "X-Auth-Scope": "its scopes, or empty",
            },
            401: {"WWW-Authenticate": "RFC 6750 §3, or RFC 9470"},
            403: {"WWW-Authenticate": "RFC 6750 §3"},
        },
        errors=(500, 503),
    ),
)
OPERATIONS: Final = (
    Operation(
        path="/livez",
        method="get",
        section=_OPERATIONS,
        summary="Whether the process answers",
        answers={200: Alive},
    ),
    Operation(
        path="/readyz",
        method="get",
        section=_OPERATIONS,
        summary="Whether requests should come here, and what is wrong",
        answers={200: probes.Readiness, 503: probes.Readiness},
    ),
    Operation(
        path="/metrics",
        method="get",
        section=_OPERATIONS,
        summary="Metrics for Prometheus",
        answers={200: str},
        media="text/plain",
    ),
    Operation(
        path=JSON_PATH,
        method="get",
        section=_OPERATIONS,
        summary="This document",
        answers={200: dict[str, Any]},
    ),
    Operation(
        path=DOCS_PATH,
        method="get",
        section=_OPERATIONS,
        summary="This document, to be read by people",
        answers={200: str},
        media="text/html",
    ),
)

_WAYS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    introspection.Introspect.__name__: (("token",), ("jti", "sub", "iat", "exp"), ("claims", "header")),
    Payload.__name__: (("jti", "sub", "iat", "exp"),),
    revocation.Revoke.__name__: (("token",), ("jti",)),
    token.TokenRequest.__name__: (("grant_type", "refresh_token"),),
}
"""Where one set of members or another must be there: which types can't say."""

_ALONE: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    introspection.Introspect.__name__: {
        "token": frozenset(introspection.Introspect.__struct_fields__) - {"token"},
        "claims": frozenset(introspection.Introspect.__struct_fields__) - {"claims", "header"},
    },
    revocation.Revoke.__name__: {"token": frozenset({"jti"})},
}
"""Members beside which others may not be: they may be null there."""


_EMPTY: Final[Mapping[str, Any]] = {"type": "string", "maxLength": 0}
"""A field of a form that counts as absent."""


def document(endpoints: Iterable[Endpoint[Any]], own_issuer: str | None) -> Json:
    """The OpenAPI 3.1 document of these endpoints and of all that is served past them.

    Args:
        endpoints: Those that are served.
        own_issuer: The issuer of the sessions kept here; None where none are kept.
    """
    operations = (
        *INTROSPECTION,
        *(Operation.of(each) for each in endpoints),
        *(() if own_issuer is None else _well_known(own_issuer)),
        *OPERATIONS,
    )
    schemas = _Schemas(operations)
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Revoker", "version": __version__, "description": _DESCRIPTION},
        "tags": [{"name": name} for name in dict.fromkeys((*_SECTIONS.values(), _OPERATIONS))],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": _error_responses(schemas),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "A caller's name and secret."},
                "bearer": {"type": "http", "scheme": "bearer", "description": "A caller's secret alone."},
                "gateway": {"type": "apiKey", "in": "header", "name": forward_auth.KEY_HEADER},
                "user": {"type": "http", "scheme": "bearer", "description": "The token of a gateway's user."},
            },
        },
    }


def routes(endpoints: Iterable[Endpoint[Any]], own_issuer: str | None) -> list[web.RouteDef]:
    """Both routes; they stand on ``ops_port`` where that is set.

    The document is made when it is first asked for: it takes longer than the rest of the application.
    """
    served = tuple(endpoints)
    specification = functools.cache(lambda: document(served, own_issuer))
    policy = {"Content-Security-Policy": docs.POLICY, "Referrer-Policy": "no-referrer"}
    return [
        web.get(JSON_PATH, _fixed(lambda: msgspec.json.encode(specification()), _JSON, {})),
        web.get(DOCS_PATH, _fixed(lambda: docs.page(specification()).encode(), "text/html", policy)),
    ]


def _fixed(make: Callable[[], bytes], media: str, headers: Mapping[str, str]) -> Any:
    """A handler of what stays the same while the process lives; caches ask whether it did."""
    body = functools.cache(make)
    told = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", **headers}

    async def respond(request: web.Request) -> web.Response:
        return unless_known(request, body(), media, told)

    return respond


def _well_known(issuer: str) -> list[Operation]:
    section = _SECTIONS["sessions"]
    keys = Operation(
        path=well_known.JWKS,
        method="get",
        section=section,
        summary="The keys that sign access tokens (RFC 7517)",
        answers={200: dict[str, Any]},
    )
    metadata = [
        Operation(
            path=path,
            method="get",
            section=section,
            summary="Where what is asked (RFC 8414)",
            answers={200: well_known.Metadata},
        )
        for path in well_known.metadata_paths(issuer)
    ]
    return [keys, *metadata]


class _Schemas:
    """The schemas of all types that operations name.

    Attributes:
        components: Those that have a name.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = [ErrorBody]
        for each in operations:
            types += [each.query, each.body, each.form, *each.answers.values()]
        types = [each for each in types if each is not None]
        made, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        self.components: Json = {name: _tidied(components[name]) for name in sorted(components)}
        for name, ways in _WAYS.items():
            if name in self.components:
                self.components[name] = _with_ways(self.components[name], ways, _ALONE.get(name, {}))
        self._queries = {
            each.query: self.components.pop(each.query.__name__) for each in operations if each.query
        }
        self._by_type = [(kind, _tidied(schema)) for kind, schema in zip(types, made, strict=True)]

    def of(self, kind: Any) -> Json:
        return next(schema for each, schema in self._by_type if each is kind)

    def form_of(self, kind: Any) -> Json:
        """As :meth:`of`, for fields of a form or query: each has one value, and an empty one is absent."""
        told = self._queries.get(kind) or self.components[kind.__name__]
        schema: Json = _without(("null", "array"), copy.deepcopy(told))
        for name, member in schema["properties"].items():
            if member.get("anyOf") == [] or "$ref" in member:
                schema["properties"][name] = _EMPTY  # a list or an object: JSON alone can say it
                continue
            if member.get("type") == "number":
                member.setdefault("minimum", -LARGEST)
                member.setdefault("maximum", LARGEST)
            if name not in schema.get("required", ()):
                for bound in ("minLength", "pattern"):
                    member.pop(bound, None)
        if kind is TokenForm:
            schema["properties"] |= dict.fromkeys(sorted(introspection.CLAIMS_IN_FORMS), _EMPTY)
        for way in schema.get("anyOf", ()):
            way["properties"] = {
                name: _EMPTY if member == {"type": "null"} else member
                for name, member in way["properties"].items()
                if (name, member) != ("client_id", {"type": "null"})  # the caller's own in a form
            }
        return {**schema, "additionalProperties": {"type": "string"}}


def _operation(operation: Operation, schemas: _Schemas) -> Json:
    told: Json = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method}{operation.path}"),
        "tags": [operation.section],
        "summary": operation.summary,
        "security": list(operation.security),
    }
    if operation.scope:
        told["description"] = f"Needs the scope `{operation.scope}`."
    if parameters := _parameters(operation, schemas):
        told["parameters"] = parameters
    if operation.body is not None:
        content = {_JSON: {"schema": schemas.of(operation.body)}}
        if operation.form is not None:
            content[_FORM] = {"schema": schemas.form_of(operation.form)}
        told["requestBody"] = {"required": True, "content": content}
    answers = {str(status): _answer(status, operation, schemas) for status in operation.answers}
    errors = {str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in operation.errors}
    told["responses"] = dict(sorted({**errors, **answers}.items()))
    return told


def _parameters(operation: Operation, schemas: _Schemas) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        asked = schemas.form_of(operation.query)
        required = asked.get("required", ())
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in asked["properties"].items()
        ]
    found += [
        {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in operation.headers.items()
    ]
    return found


def _answer(status: int, operation: Operation, schemas: _Schemas) -> Json:
    kind = operation.answers[status]
    phrase = HTTPStatus(status).phrase
    told: Json = {"description": f"{phrase}; the body is empty." if kind is None else f"{phrase}."}
    if kind is not None:
        told["content"] = {operation.media: {"schema": schemas.of(kind)}}
    if status in operation.told:
        told["headers"] = {
            name: {"description": meaning, "required": True, "schema": {"type": "string"}}
            for name, meaning in operation.told[status].items()
        }
    return told


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


def _with_ways(schema: Json, ways: tuple[tuple[str, ...], ...], alone: Mapping[str, frozenset[str]]) -> Json:
    """Demand one of several sets of members, none of them null or empty, and nothing beside it."""

    def present(name: str) -> Json:
        told = cast("Json", _without(("null",), copy.deepcopy(schema["properties"][name])))
        return {**told, "minLength": 1} if told.get("type") == "string" else told

    return {
        **schema,
        "anyOf": [
            {
                "required": list(way),
                "properties": {
                    **{name: present(name) for name in way},
                    **{name: {"type": "null"} for name in sorted(_beside(way, ways, alone))},
                },
            }
            for way in ways
        ],
    }


def _beside(
    way: tuple[str, ...], ways: tuple[tuple[str, ...], ...], alone: Mapping[str, frozenset[str]]
) -> set[str]:
    """The members that may not be there together with those of one way."""
    excluded = {name for member in way for name in alone.get(member, ())}
    return excluded | {name for one in ways if alone.keys() & set(one) for name in one if name not in way}
