"""What support staff ask: lists of revocations, and one user."""

import urllib.parse
from typing import Any

import aiohttp

from tests.rig.servers import Valkey
from tests.rig.service import SECRETS, Answer, Running
from tests.rig.topologies import until


def until_at_rest(valkey: Valkey) -> None:
    """Wait until the table of keys has its size: while it changes, ``SCAN`` may give a key twice."""
    with valkey.client() as client:
        until(lambda: not client.info("memory")["mem_overhead_db_hashtable_rehashing"], "a table at rest")


async def view(running: Running, path: str, caller: str = "admin", **query: Any) -> Answer:
    """GET, as a caller; parameters that are None are left out."""
    given = {name: value for name, value in query.items() if value is not None}
    text = f"?{urllib.parse.urlencode(given)}" if given else ""
    headers = {"Authorization": aiohttp.encode_basic_auth(caller, SECRETS[caller])}
    return await running.ask("GET", path + text, headers=headers)


async def view_user(running: Running, sub: str, caller: str = "admin", **query: Any) -> Answer:
    return await view(running, f"/users/{urllib.parse.quote(sub, safe='')}", caller, **query)


async def page(running: Running, cursor: str | None = None, **query: Any) -> Any:
    """One page of revocations, which must come."""
    answer = await view(running, "/revocations", cursor=cursor, **query)
    assert answer.status == 200, answer.body
    return answer.json


async def everything(*runnings: Running, limit: int = 100, **query: Any) -> list[dict[str, Any]]:
    """All pages of a list; of several processes each answers every so-manieth."""
    listed: list[dict[str, Any]] = []
    cursor, asked = None, 0
    while True:
        answer = await page(runnings[asked % len(runnings)], cursor, limit=limit, **query)
        assert len(answer["revocations"]) <= max(limit, 2), "more than one user's"
        listed += answer["revocations"]
        cursor, asked = answer["next"], asked + 1
        assert asked < 10_000, "a list without an end"
        if cursor is None:
            return listed


def name_of(revocation: dict[str, Any]) -> tuple[str, ...]:
    """What tells revocations apart."""
    members = ("kind", "iss", "sub", "tag", "sid", "jti", "client_id", "claim", "value", "kid", "segment")
    return tuple(str(revocation.get(member)) for member in (*members, "except_sid"))
