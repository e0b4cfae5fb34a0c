"""What an endpoint's handler uses is resolved at start-up, by the names of its keyword-only parameters."""

import inspect
import typing
from types import SimpleNamespace

import msgspec
import pytest

from revoker.api import backchannel, dispatch, session_list, sessions, token
from revoker.api.endpoint import Call, Endpoint
from revoker.api.services import Services


class Question(msgspec.Struct, frozen=True):
    """A body."""

    number: int


class Sum(msgspec.Struct, frozen=True):
    """An answer."""

    total: int


async def add(call: Call[Question], *, constant: int, offset: int | None) -> Sum:
    return Sum(call.body.number + constant + (offset or 0))


ENDPOINT = Endpoint(path="/add", scope="add", body=Question, answer=Sum, summary="Add", handle=add)


async def test_a_handler_gets_what_it_names_and_nothing_else():
    provided = SimpleNamespace(authentication=object(), constant=40, offset=2, unused=1)
    call = Call(caller=None, body=Question(7), peer="", path={})
    assert await ENDPOINT.bind(provided).handle(call) == Sum(49)
    provided.offset = None
    assert await ENDPOINT.bind(provided).handle(call) == Sum(47)


@pytest.mark.parametrize("missing", ["constant", "offset", "authentication"])
def test_a_name_that_is_not_provided_stops_the_start(missing):
    provided = SimpleNamespace(authentication=object(), constant=40, offset=2)
    delattr(provided, missing)
    with pytest.raises(TypeError, match=rf"^POST /add uses '{missing}', which the service does not provide$"):
        ENDPOINT.bind(provided)


def test_none_where_the_handler_does_not_allow_it_stops_the_start():
    with pytest.raises(TypeError, match=r"^POST /add uses 'constant', "):
        ENDPOINT.bind(SimpleNamespace(authentication=object(), constant=None, offset=None))


SERVED = (
    *dispatch.ENDPOINTS,
    *backchannel.ENDPOINTS,
    *sessions.ENDPOINTS,
    *session_list.ENDPOINTS,
    *token.ENDPOINTS,
)


@pytest.mark.parametrize("endpoint", SERVED, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_a_handler_declares_what_it_uses_as_the_services_have_it(endpoint):
    """A service that some settings lack may be declared without None: the start stops where it is missing."""
    provided = typing.get_type_hints(Services)
    for name, parameter in inspect.signature(endpoint.handle).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.annotation == provided[name] or parameter.annotation | None == provided[name], (
                name
            )
