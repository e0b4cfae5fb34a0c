"""What is private in aiohttp is used in one file, and a release that changes it fails here, by name."""

import ast
import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web, web_protocol

from revoker.server import connections

SERVICE = Path(connections.__file__).parent.parent

PRIVATE = {
    "_ErrInfo",
    "_buffer_paused",
    "_close",
    "_current_request",
    "_force_close",
    "_handler_waiter",
    "_keepalive",
    "_keepalive_handle",
    "_keepalive_timeout",
    "_kwargs",
    "_loop",
    "_make_server",
    "_messages",
    "_next_keepalive_close_time",
    "_parser",
    "_pause_transport_reading",
    "_process_keepalive",
    "_reading_paused",
    "_request_count",
    "_request_factory",
    "_request_in_progress",
    "_resume_reading_for_buffer",
    "_resume_transport_reading",
    "_task_handler",
    "_upgraded",
    "_waiter",
}
"""What ``connections`` uses."""

SIGNATURES = {
    "RequestHandler.__init__": ("manager", "loop"),
    "RequestHandler._pause_transport_reading": (),
    "RequestHandler._process_keepalive": (),
    "RequestHandler._resume_reading_for_buffer": (),
    "RequestHandler._resume_transport_reading": (),
    "RequestHandler.connection_lost": ("exc",),
    "RequestHandler.data_received": ("data",),
    "RequestHandler.finish_response": ("request", "resp", "start_time"),
    "RequestHandler.handle_error": ("request", "status", "exc", "message"),
    "RequestHandler.pause_writing": (),
    "RequestHandler.resume_reading": ("resume_parser",),
    "RequestHandler.resume_writing": (),
    "Server.__call__": (),
    "AppRunner._make_server": (),
    "Application._make_request": ("message", "payload", "protocol", "writer", "task", "_cls"),
}
"""Parameters of what is overridden or called, without ``self``; of constructors those that are passed."""


def changed(name: str, how: str) -> str:
    return f"aiohttp {aiohttp.__version__}: {name} {how}; see revoker/server/connections.py"


def attributes_of_aiohttp() -> dict[str, Any]:
    """Every private name of the classes that are subclassed, and those of a fresh connection and server."""

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError

    server = web.Server(handler)  # type: ignore[arg-type]
    found = {"_ErrInfo": web_protocol._ErrInfo} if hasattr(web_protocol, "_ErrInfo") else {}
    for thing in (web.AppRunner, server, server()):
        names = [name for name in dir(thing) if name.startswith("_") and hasattr(thing, name)]
        found |= {name: getattr(thing, name) for name in names}
    return found


@pytest.mark.parametrize("name", sorted(PRIVATE))
async def test_aiohttp_has_the_private_name(name: str) -> None:
    assert name in attributes_of_aiohttp(), changed(name, "is missing")


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items(), ids=SIGNATURES)
def test_aiohttp_takes_the_same_parameters(name: str, expected: tuple[str, ...]) -> None:
    owner, _, method = name.partition(".")
    parameters = list(inspect.signature(getattr(getattr(web, owner), method)).parameters)[1:]
    if method == "__init__":
        parameters = [parameter for parameter in parameters if parameter in expected]
    assert tuple(parameters) == expected, changed(name, f"takes {parameters}")


def test_a_malformed_request_is_described_by_status_exception_and_message() -> None:
    parameters = tuple(inspect.signature(web_protocol._ErrInfo).parameters)
    assert parameters == ("status", "exc", "message"), changed("_ErrInfo", f"takes {parameters}")


async def test_the_messages_of_a_connection_are_a_queue_and_nothing_waits_before_it_starts() -> None:
    attributes = attributes_of_aiohttp()
    assert list(attributes["_messages"]) == [], changed("_messages", "is no empty queue")
    assert attributes["_waiter"] is None, changed("_waiter", "is not None at first")
    assert attributes["_request_count"] == 0, changed("_request_count", "is not 0 at first")


async def test_a_queued_message_is_consumed_where_it_leaves_the_queue() -> None:
    parser = attributes_of_aiohttp()["_parser"]
    assert parser.message_consumed() is None, changed("_parser", "counts the queue in another way")


def private_names(file: Path, inherited: Collection[str] = ()) -> set[str]:
    """Names with one underscore that a file uses and does not define, or that it has inherited."""
    tree = ast.parse(file.read_text())
    used, defined = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Load()):
                used.add(name)
            case ast.Attribute(attr=name) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.ImportFrom(module=module, names=names) if (module or "").startswith("aiohttp"):
                used |= {imported.name for imported in names}
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name)):
                used.add(name)
            case _:
                pass
    names = (used - defined) | (used | defined).intersection(inherited)
    return {name for name in names if name.startswith("_") and name[1:2] != "_"}


def test_the_list_of_private_names_is_complete() -> None:
    inherited = {*dir(web.RequestHandler), "_make_server"}
    assert private_names(Path(connections.__file__), inherited) == PRIVATE


def names_of_aiohttp() -> set[str]:
    """Every private name in aiohttp's own source: of classes, of what they define, and of attributes."""
    names = set()
    for file in Path(aiohttp.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Attribute(attr=name) | ast.Name(id=name):
                    names.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names.add(name)
                case _:
                    pass
    return {name for name in names if name.startswith("_") and name[1:2] != "_"}


def test_no_other_file_imports_or_touches_what_is_private() -> None:
    private = names_of_aiohttp()
    assert private >= PRIVATE
    for file in SERVICE.rglob("*.py"):
        if file != Path(connections.__file__):
            touched = private_names(file) & private
            assert not touched, f"{file.relative_to(SERVICE)} touches {touched}"


@pytest.mark.parametrize(
    "source",
    [
        "def route(request):\n    return request._match_info",
        "from aiohttp.web_protocol import _ErrInfo",
        "def body(request):\n    return request.content._buffer",
    ],
)
def test_a_file_that_touches_another_private_name_would_be_found(tmp_path: Path, source: str) -> None:
    file = tmp_path / "other.py"
    file.write_text(source)
    assert private_names(file) & names_of_aiohttp()
