"""The OpenAPI document, made from the types that the endpoints read and answer; `make docs` writes it."""

import copy
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, cast

import msgspec

from deploy import openapi_examples as examples
from revoker import __version__
from revoker.api import (
    backchannel,
    batch,
    dispatch,
    feed,
    feed_snapshot,
    forward_auth,
    introspection,
    paths,
    probes,
    revocation,
    session_list,
    sessions,
    token,
    well_known,
)
from revoker.api.bodies import LARGEST, MAX_FIELDS
from revoker.api.endpoint import Endpoint
from revoker.api.error_responses import REPLIES, ErrorBody, Reply
from revoker.api.openapi import DOCS_PATH, JSON_PATH, operation_id
from revoker.errors import (
    InsufficientScope,
    InvalidClient,
    InvalidRequest,
    KeysUnavailable,
    RequestTooLarge,
    RequestTooSlow,
    RevokerError,
    StoreRefused,
    StoreUnavailable,
    TooManyFailures,
    TooManyRequests,
    UnsupportedMediaType,
)
from revoker.models import Payload
from revoker.tokens.claims import IntrospectionResponse

OPTIONAL: Final[tuple[Endpoint[Any], ...]] = (
    *backchannel.ENDPOINTS,
    *sessions.ENDPOINTS,
    *session_list.ENDPOINTS,
    *token.ENDPOINTS,
)
"""Endpoints that only some settings bring; the service leaves out what it does not serve."""

Json = dict[str, Any]

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_OPERATIONS: Final = "Operations"
_SECTIONS: Final = {
    "introspect": "Introspection",
    "revoke": "Revocation",
    "revoke-all": "Revocation",
    "sessions": "Sessions",
    "read": "Administration",
    "feed": "Feed",
}
"""By the scope that an operation needs."""

_BY_SECRET: Final[tuple[Json, ...]] = ({"basic": []}, {"bearer": []})
_BY_ANYBODY: Final[tuple[Json, ...]] = ({}, *_BY_SECRET)
_DESCRIPTION: Final = (
    "Makes a JWT stop being valid before it expires. A token is revoked when its `jti` is listed, or when "
    "it was issued at or before a cutoff of its user, session, client or issuer.\n\n"
    "Callers authenticate with HTTP Basic, with their secret as a Bearer token, with `client_id` and "
    "`client_secret` in a form, or with a client certificate. Members that are not named here are ignored; "
    "a body with a duplicate member is refused."
)


class Overloaded(RevokerError):
    """More requests are in progress than the settings allow."""


class GatewayRefused(RevokerError):
    """The gateway's own credential is wrong, lacks the scope, or exceeds its rate limit."""


class ServiceFailed(RevokerError):
    """The service failed."""


Errors = tuple[type[RevokerError], ...]

_UNAVAILABLE: Final = Reply(503, "temporarily_unavailable", {"Retry-After": "1"})
_REPLIES: Final[Mapping[type[RevokerError], Reply]] = {
    **REPLIES,
    Overloaded: _UNAVAILABLE,
    GatewayRefused: _UNAVAILABLE,
    ServiceFailed: Reply(500, "server_error"),
}
"""By the table of the service, and what is answered without an error of its own."""

_OF_CALLERS: Final[Errors] = (InvalidRequest, InvalidClient, TooManyFailures, TooManyRequests)
_OF_BODIES: Final[Errors] = (UnsupportedMediaType, RequestTooLarge, RequestTooSlow)
_OF_THE_STORE: Final[Errors] = (StoreUnavailable, StoreRefused, ServiceFailed)
_OF_INTROSPECTION: Final[Errors] = (
    *_OF_CALLERS,
    *_OF_BODIES,
    *_OF_THE_STORE,
    InsufficientScope,
    Overloaded,
)


class TokenForm(msgspec.Struct, frozen=True):
    """A token, as RFC 7662 §2.1 sends it."""

    token: Annotated[str, msgspec.Meta(min_length=1)]
    token_type_hint: str | None = None


class Alive(msgspec.Struct, frozen=True):
    """The process answers; the store is not asked."""

    status: Literal["ok"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        section: Its tag, under which the page lists it.
        scope: What a caller needs; empty: none.
        security: The ways to authenticate, of which one is enough.
        query: The type read from the query; None: there must be none.
        body: The type read from JSON; None: there is no body.
        form: The type read from a form; None: no form is read.
        headers: Request headers that are read, beside credentials, with their meaning.
        answers: The type of the body by status; None: it is empty.
        answer_headers: Headers of those answers, by status, with their meaning.
        media: The media type of the answers.
        polled: The type of the JSON body that a request with `wait` gets; None: there is no such request.
        errors: What is answered with the OAuth error object.
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
    answer_headers: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    media: str = _JSON
    polled: Any = None
    errors: Errors = ()

    @classmethod
    def of(cls, endpoint: Endpoint[Any]) -> "Operation":
        """The operation that an endpoint declares."""
        posted = endpoint.method == "POST"
        errors = (
            *_OF_CALLERS,
            *(_OF_BODIES if posted else ()),
            *_OF_THE_STORE,
            *((InsufficientScope,) if endpoint.scope else ()),
            *((Overloaded,) if endpoint.path == token.PATH else ()),
            *endpoint.errors,
        )
        unscoped = "Sessions" if endpoint.path == token.PATH else "Revocation"
        return cls(
            path=endpoint.path,
            method=endpoint.method.lower(),
            section="Feed" if endpoint.path.startswith("/feed") else _SECTIONS.get(endpoint.scope, unscoped),
            summary=endpoint.summary,
            scope=endpoint.scope,
            security=_BY_SECRET if endpoint.scope else _BY_ANYBODY,
            query=None if posted else endpoint.body,
            body=endpoint.body if posted else None,
            form=endpoint.body if posted else None,
            answers={endpoint.status: endpoint.answer},
            errors=errors,
        )


INTROSPECTION: Final = (
    Operation(
        path=paths.INTROSPECT,
        section=_SECTIONS[introspection.SCOPE],
        summary="Say whether a token is active (RFC 7662)",
        scope=introspection.SCOPE,
        security=_BY_SECRET,
        body=introspection.Introspect,
        form=TokenForm,
        answers={200: IntrospectionResponse},
        errors=(*_OF_INTROSPECTION, KeysUnavailable),
    ),
    Operation(
        path=paths.BATCH,
        section=_SECTIONS[introspection.SCOPE],
        summary="The same for up to 1,000 tokens, with one lookup in the store",
        scope=introspection.SCOPE,
        security=_BY_SECRET,
        body=batch.Batch,
        answers={200: batch.Results},
        errors=_OF_INTROSPECTION,
    ),
    Operation(
        path=paths.FORWARD_AUTH,
        method="get",
        section=_SECTIONS[introspection.SCOPE],
        summary="Say whether a gateway may let a user's request pass; by any method, on any path below",
        scope=introspection.SCOPE,
        security=({"gateway": [], "user": []},),
        headers={
            forward_auth.REQUIREMENTS_HEADER: 'what the route requires: `scope="a b"; acr=mfa; max_age=300`'
        },
        answers={200: None, 401: ErrorBody, 403: ErrorBody},
        answer_headers={
            200: {
                "X-Auth-Subject": "the token's `sub`, percent-encoded",
                "X-Auth-Session": "its `sid`, or empty",
                "X-Auth-Client": "its `client_id` or `azp`, or empty",
                "X-Auth-Scope": "its scopes, or empty",
            },
            401: {"WWW-Authenticate": "RFC 6750 §3, or RFC 9470"},
            403: {"WWW-Authenticate": "RFC 6750 §3"},
        },
        errors=(*_OF_THE_STORE, KeysUnavailable, Overloaded, GatewayRefused),
    ),
)
FEED: Final = (
    Operation(
        path=feed.PATH,
        method="get",
        section=_SECTIONS[feed.SCOPE],
        summary="Send changes as they are made: server-sent events, or with `wait` a JSON array of events",
        scope=feed.SCOPE,
        security=_BY_SECRET,
        query=feed.FeedQuery,
        answers={200: Any},
        media="text/event-stream",
        polled=list[dict[str, Any]],
        errors=(*_OF_CALLERS, *_OF_THE_STORE, InsufficientScope),
    ),
    Operation(
        path=feed_snapshot.PATH,
        method="get",
        section=_SECTIONS[feed.SCOPE],
        summary="Send everything from which the feed continues, one JSON object per line",
        scope=feed.SCOPE,
        security=_BY_SECRET,
        query=feed_snapshot.SnapshotQuery,
        answers={200: str},
        media="application/x-ndjson",
        errors=(*_OF_CALLERS, *_OF_THE_STORE, InsufficientScope),
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
        summary="This document as a page",
        answers={200: str},
        media="text/html",
    ),
)

WELL_KNOWN: Final = (
    Operation(
        path=well_known.JWKS,
        method="get",
        section=_SECTIONS["sessions"],
        summary="The keys that sign access tokens (RFC 7517)",
        answers={200: dict[str, Any]},
    ),
    Operation(
        path=well_known.METADATA,
        method="get",
        section=_SECTIONS["sessions"],
        summary="Metadata of the authorization server (RFC 8414)",
        answers={200: well_known.Metadata},
    ),
)

_NOTES: Final[Mapping[str, str]] = {
    "/revoke": " With `dry_run` or `wait_edges` the answer has a body, with `dry_run` or `edges` as that of"
    " `/revoke-user`.",
}
"""What types can't say of an operation."""

_ALTERNATIVES: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    introspection.Introspect.__name__: (("token",), ("jti", "sub", "iat", "exp"), ("claims", "header")),
    Payload.__name__: (("jti", "sub", "iat", "exp"),),
    revocation.Revoke.__name__: (("token",), ("jti",)),
    token.TokenRequest.__name__: (("grant_type", "refresh_token"),),
}
"""Alternative sets of required members, which types can't express."""

_EXCLUDED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    introspection.Introspect.__name__: {
        "token": frozenset(introspection.Introspect.__struct_fields__) - {"token"},
        "claims": frozenset(introspection.Introspect.__struct_fields__) - {"claims", "header"},
    },
    revocation.Revoke.__name__: {"token": frozenset({"jti"})},
}
"""By member, the members that must be absent or null beside it."""


_FORM_BOOLEAN: Final[Mapping[str, Any]] = {
    "type": ["boolean", "integer", "string"],
    "enum": [True, False, 1, 0, "true", "false", "1", "0", ""],
}
"""The values by which a form field is true or false, or absent."""

_EMPTY: Final[Mapping[str, Any]] = {"type": "string", "maxLength": 0}
"""A form field that counts as absent."""


def document() -> Json:
    """The OpenAPI 3.1 document of every endpoint that a service can have."""
    operations = (
        *INTROSPECTION,
        *(Operation.of(endpoint) for endpoint in (*dispatch.ENDPOINTS, *OPTIONAL)),
        *FEED,
        *WELL_KNOWN,
        *OPERATIONS,
    )
    schemas = _Schemas(operations)
    responses = _ErrorResponses(schemas)
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas, responses)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Revoker", "version": __version__, "description": _DESCRIPTION},
        "tags": [{"name": name} for name in dict.fromkeys((*_SECTIONS.values(), _OPERATIONS))],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": dict(sorted(responses.components.items())),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic", "description": "A caller's name and secret."},
                "bearer": {"type": "http", "scheme": "bearer", "description": "A caller's secret alone."},
                "gateway": {"type": "apiKey", "in": "header", "name": forward_auth.KEY_HEADER},
                "user": {"type": "http", "scheme": "bearer", "description": "The token of a gateway's user."},
            },
        },
    }


_ABSENT_UNLESS_READABLE: Final[Json] = {
    claim: {"description": f"{kind}; counts as absent if it is anything else"}
    for claim, kind in {
        "sid": "a string",
        "client_id": "a string",
        "azp": "a string",
        "auth_time": "seconds since 1970",
    }.items()
}
"""Optional claims in JSON: a claim that can't be read must not make a token inactive."""


class _Schemas:
    """The schemas of all types that operations use.

    Attributes:
        components: Those of named types.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = [ErrorBody]
        for operation in operations:
            types += [operation.query, operation.body, operation.form, operation.polled]
            types += operation.answers.values()
        types = [kind for kind in types if kind is not None]
        made, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        self.components: Json = {name: _tidied(components[name]) for name in sorted(components)}
        for name, alternatives in _ALTERNATIVES.items():
            schema = self.components[name]
            self.components[name] = _with_alternatives(schema, alternatives, _EXCLUDED.get(name, {}))
        self._strict = copy.deepcopy(self.components)
        for name in ("Introspect", "Payload"):
            for claim in introspection.OPTIONAL_CLAIMS:
                self.components[name]["properties"][claim] = _ABSENT_UNLESS_READABLE[claim]
        self._queries = {
            operation.query: self.components.pop(operation.query.__name__)
            for operation in operations
            if operation.query
        }
        self._by_type = [(kind, _tidied(schema)) for kind, schema in zip(types, made, strict=True)]

    def of(self, kind: Any) -> Json:
        return next(schema for typed, schema in self._by_type if typed is kind)

    def form_of(self, kind: Any) -> Json:
        """As :meth:`of`, for a form, in which empty fields count as absent, or a query: of single values."""
        json_schema = self._queries.get(kind) or self._strict[kind.__name__]
        schema: Json = _without(("null", "array"), copy.deepcopy(json_schema))
        for name, member in schema["properties"].items():
            if member.get("anyOf") == [] or "$ref" in member:
                schema["properties"][name] = _EMPTY  # a list or an object, which only JSON can express
                continue
            if {"type": "boolean"} in (kinds := member.get("anyOf", [])):
                others = [kind for kind in kinds if kind != {"type": "boolean"}]
                member["anyOf"] = [dict(_FORM_BOOLEAN), *others]
            if member.get("type") == "boolean" and "enum" not in member:
                schema["properties"][name] = {**member, **_FORM_BOOLEAN}
            if member.get("type") == "number":
                member.setdefault("minimum", -LARGEST)
                member.setdefault("maximum", LARGEST)
            if name not in schema.get("required", ()) and kind not in self._queries:
                member.pop("minLength", None)
                if not re.search(member.get("pattern", ""), ""):
                    member["pattern"] = f"^$|{member['pattern']}"
        if kind is TokenForm:
            schema["properties"] |= dict.fromkeys(sorted(introspection.CLAIMS_IN_FORMS), _EMPTY)
        for alternative in schema.get("anyOf", ()):
            alternative["properties"] = {
                name: _EMPTY if member == {"type": "null"} else member
                for name, member in alternative["properties"].items()
                if (name, member) != ("client_id", {"type": "null"})  # in a form it is the caller's own
            }
        return {**schema, "additionalProperties": {"type": "string"}, "maxProperties": MAX_FIELDS}


def _operation(operation: Operation, schemas: _Schemas, responses: "_ErrorResponses") -> Json:
    described: Json = {
        "operationId": operation_id(operation.method, operation.path),
        "tags": [operation.section],
        "summary": operation.summary,
        "security": list(operation.security),
    }
    if operation.scope:
        described["description"] = f"Needs the scope `{operation.scope}`.{_NOTES.get(operation.path, '')}"
    if parameters := _parameters(operation, schemas):
        described["parameters"] = parameters
    if operation.body is not None:
        bodies = examples.BODIES[operation.method, operation.path]
        content = {_JSON: {"schema": schemas.of(operation.body), "examples": _examples(bodies)}}
        if operation.form is not None:
            forms = {name: form for name, body in bodies.items() if (form := _form(body))}
            content[_FORM] = {"schema": schemas.form_of(operation.form), "examples": _examples(forms)}
        described["requestBody"] = {"required": True, "content": content}
    answers = {str(status): _answer(status, operation, schemas) for status in operation.answers}
    described["responses"] = dict(sorted({**responses.of(operation.errors), **answers}.items()))
    return described


def _examples(values: examples.Named) -> Json:
    """Examples with names that may be in a URL, as OpenAPI wants them."""
    return {name.replace(" ", "_"): {"summary": name, "value": value} for name, value in values.items()}


def _form(body: Mapping[str, Any]) -> Json:
    """The members of a body that a form can express."""
    return {name: value for name, value in body.items() if not isinstance(value, dict | list)}


def _parameters(operation: Operation, schemas: _Schemas) -> list[Json]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        query = schemas.form_of(operation.query)
        required = query.get("required", ())
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in query["properties"].items()
        ]
    found += [
        {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in operation.headers.items()
    ]
    for parameter in found:
        if parameter["name"] in examples.PARAMETERS:
            parameter["example"] = examples.PARAMETERS[parameter["name"]]
    return found


def _answer(status: int, operation: Operation, schemas: _Schemas) -> Json:
    kind = operation.answers[status]
    phrase = HTTPStatus(status).phrase
    described: Json = {"description": f"{phrase}; the body is empty." if kind is None else f"{phrase}."}
    if kind is not None:
        values = examples.ANSWERS[operation.method, operation.path, status]
        described["content"] = {operation.media: {"schema": schemas.of(kind), "examples": _examples(values)}}
        if operation.polled is not None:
            schema = schemas.of(operation.polled)
            described["content"][_JSON] = {"schema": schema, "examples": _examples(examples.POLLED)}
    if status in operation.answer_headers:
        described["headers"] = {
            name: {"description": meaning, "required": True, "schema": {"type": "string"}}
            for name, meaning in operation.answer_headers[status].items()
        }
    return described


class _ErrorResponses:
    """The responses to errors: one for every set of errors of one status that some operation can give.

    Attributes:
        components: By the names of their errors.
    """

    def __init__(self, schemas: _Schemas) -> None:
        self.components: Json = {}
        self._body = schemas.of(ErrorBody)

    def of(self, errors: Errors) -> Json:
        """References to the responses, by status."""
        by_status: dict[int, list[type[RevokerError]]] = {}
        for error, reply in _REPLIES.items():  # always in this order
            if error in errors:
                by_status.setdefault(reply.status, []).append(error)
        references = {}
        for status, same_status in by_status.items():
            name = "_".join(error.__name__ for error in same_status)
            self.components.setdefault(name, self._response(same_status))
            references[str(status)] = {"$ref": f"#/components/responses/{name}"}
        return references

    def _response(self, errors: Sequence[type[RevokerError]]) -> Json:
        meanings, values, codes, headers = [], {}, [], set()
        for error in errors:
            reply = _REPLIES[error]
            meaning = _markdown(inspect.cleandoc(error.__doc__ or "").splitlines()[0])
            meanings.append(f"- `{reply.error}`: {meaning}")
            codes.append(reply.error)
            values[reply.error] = {
                "error": reply.error,
                "error_description": examples.DESCRIPTIONS[reply.error],
            }
            headers |= set(reply.headers)
        schema = {"allOf": [self._body], "properties": {"error": {"enum": list(dict.fromkeys(codes))}}}
        response: Json = {
            "description": "\n".join(meanings),
            "content": {_JSON: {"schema": schema, "examples": _examples(values)}},
        }
        if headers:
            response["headers"] = {
                name: {"schema": {"type": "string"}, "required": True} for name in sorted(headers)
            }
        return response


def _tidied(schema: Any) -> Any:
    """The schema without what says nothing, its descriptions in Markdown."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {name: _tidied(value) for name, value in schema.items() if (name, value) != ("required", [])}
    if tidied.get("default", "") is None:
        del tidied["default"]
    if "anyOf" in tidied:
        choices = tidied["anyOf"]
        if {"type": "integer"} in choices and {"type": "number"} in choices:
            choices.remove({"type": "integer"})
        if len(choices) == 1:
            tidied = {**tidied.pop("anyOf")[0], **tidied}
    if isinstance(tidied.get("description"), str):
        text, _, _ = inspect.cleandoc(tidied["description"]).partition("\n\nAttributes:")
        tidied["description"] = _markdown(text)
    return tidied


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _without(types: tuple[str, ...], schema: Any) -> Any:
    """The schema without the given types of members."""
    if isinstance(schema, list):
        return [_without(types, item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {name: _without(types, value) for name, value in schema.items()}
    if "anyOf" in tidied:
        tidied["anyOf"] = [choice for choice in tidied["anyOf"] if choice.get("type") not in types]
        if len(tidied["anyOf"]) == 1:
            tidied = {**tidied.pop("anyOf")[0], **tidied}
    return tidied


def _with_alternatives(
    schema: Json, alternatives: tuple[tuple[str, ...], ...], excluded: Mapping[str, frozenset[str]]
) -> Json:
    """Require one of several sets of members, none of them null or empty, without those that it excludes."""

    def present(name: str) -> Json:
        tidied = cast("Json", _without(("null",), copy.deepcopy(schema["properties"][name])))
        return {**tidied, "minLength": 1} if tidied.get("type") == "string" else tidied

    return {
        **schema,
        "anyOf": [
            {
                "required": list(members),
                "properties": {
                    **{name: present(name) for name in members},
                    **{name: {"type": "null"} for name in sorted(_excluded(members, alternatives, excluded))},
                },
            }
            for members in alternatives
        ],
    }


def _excluded(
    members: tuple[str, ...],
    alternatives: tuple[tuple[str, ...], ...],
    excluded: Mapping[str, frozenset[str]],
) -> set[str]:
    """The members that must not be there together with those of one alternative."""
    found = {name for member in members for name in excluded.get(member, ())}
    for others in alternatives:
        if excluded.keys() & set(others):
            found |= set(others) - set(members)
    return found
