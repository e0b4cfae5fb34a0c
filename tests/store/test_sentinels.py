"""Which server is believed to be the primary: stand-ins for Sentinels name what a test wants."""

import contextlib
import types

import pytest

from revoker.errors import StoreUnavailable
from revoker.store.wire.addresses import address_of
from revoker.store.wire.command_channel import Confirmation
from tests.rig.probes import eventually, issued, revoke, status_of
from tests.rig.reply_proxy import ReplyProxy, encode
from tests.rig.servers import free_port
from tests.store.conftest import store_on

TIMEOUT_S = 5.0
"""A machine that is slow by itself must not pass for Sentinels that do not answer."""


def naming(port, *, epoch=1, others=0, described=None):
    """The replies of a Sentinel that names a server, and describes it or another one."""
    fields = [b"name", b"main", b"ip", b"127.0.0.1", b"port", b"%d" % (described or port)]
    return {
        "SENTINEL GET-MASTER-ADDR-BY-NAME": encode([b"127.0.0.1", b"%d" % port]),
        "SENTINEL MASTER": encode([*fields, b"config-epoch", b"%d" % epoch, b"num-slaves", b"%d" % others]),
    }


def answering(reply):
    """The replies of a Sentinel that answers both questions in the same way."""
    return dict.fromkeys(("SENTINEL GET-MASTER-ADDR-BY-NAME", "SENTINEL MASTER"), encode(reply))


@pytest.fixture
async def sentinels(valkey):
    """Make Sentinels that give these replies; None stands for one that is down."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*replies):
            ports = []
            for reply in replies:
                if reply is None:
                    ports.append(free_port())
                    continue
                proxy = await stack.enter_async_context(ReplyProxy.before(valkey.port))
                proxy.rules |= reply
                ports.append(proxy.port)
            return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/main"

        yield make


async def primary_by(url):
    """The port of the server to which the Sentinels lead."""
    connection = await address_of(url, timeout=TIMEOUT_S).connect(lambda _: None)
    [[_, port]] = await connection.ask(("CONFIG", "GET", "port"))
    connection.abort()
    return int(port)


async def test_a_server_that_most_sentinels_name_is_the_primary(sentinels, valkey, own_valkey):
    true, other = naming(valkey.port), naming(own_valkey.port, epoch=99)
    for replies in ((true, true, true), (true, true, None), (None, true, true), (true,), (true, true)):
        assert await primary_by(await sentinels(*replies)) == valkey.port
    for place in range(3):  # whatever the epoch that the third one claims
        replies = [true, true, true]
        replies[place] = other
        assert await primary_by(await sentinels(*replies)) == valkey.port


async def test_one_sentinel_of_three_is_not_believed(sentinels, valkey, own_valkey):
    true, other = naming(valkey.port), naming(own_valkey.port)
    refused = answering(RuntimeError("NOPERM this user has no permissions"))
    unknown = naming(valkey.port) | answering(None)
    for replies, message in (
        ((true, None, None), f"1 names 127.0.0.1:{valkey.port}"),
        ((true, None, None), "2 can't be reached"),
        ((true, other, None), f"1 names 127.0.0.1:{own_valkey.port}"),
        ((true, refused, refused), "2 answered NOPERM"),
        ((true, unknown, unknown), "2 knows no primary main"),
        ((true, answering(5), answering([b"ip"])), "2 gave a reply that is not understood"),
        ((true, answering([b"ip", 5]), answering([])), "2 gave a reply that is not understood"),
    ):
        with pytest.raises(
            StoreUnavailable, match="2 of 3 Sentinels must name the same primary main"
        ) as error:
            await primary_by(await sentinels(*replies))
        assert message in str(error.value)


async def test_in_a_failover_the_named_address_counts_and_no_replicas_of_the_former_primary(
    sentinels, valkey, own_valkey
):
    new = naming(valkey.port, described=own_valkey.port)
    locator = address_of(await sentinels(new, new, new), timeout=TIMEOUT_S)
    connection = await locator.connect(lambda _: None)
    [[_, port]] = await connection.ask(("CONFIG", "GET", "port"))
    connection.abort()
    assert int(port) == valkey.port
    assert locator.naming.others is None, "how many replicas the new one has is not known yet"


async def test_a_sentinel_that_describes_nothing_can_name_the_primary(sentinels, valkey):
    only = naming(valkey.port) | {"SENTINEL MASTER": encode(RuntimeError("NOPERM"))}
    locator = address_of(await sentinels(only), timeout=TIMEOUT_S)
    (await locator.connect(lambda _: None)).abort()
    assert locator.naming.others is None


async def test_of_two_sentinels_both_must_agree(sentinels, valkey, own_valkey):
    for second in (None, naming(own_valkey.port)):
        with pytest.raises(StoreUnavailable, match="2 of 2 Sentinels must name the same primary main"):
            await primary_by(await sentinels(naming(valkey.port), second))


async def test_no_verdict_rests_on_what_one_sentinel_of_three_says(start, sentinels, own_valkey, prefix):
    alone = store_on(own_valkey, prefix)
    assert await alone.init()
    await alone.close()
    server = types.SimpleNamespace(url=await sentinels(naming(own_valkey.port), None, None))
    revoker = await start(server, prefix=prefix, new=False, ready=False, redis={"timeout": TIMEOUT_S})
    await revoker.service.store.watch.beat()
    assert "2 of 3 Sentinels must name the same" in revoker.service.store.problems["store_unreachable"]
    assert (await revoker.post("/introspect", issued())).status == 503


@pytest.mark.parametrize(("others", "vouched"), [((1, 1, 0), True), ((1, 2, 2), False)])
async def test_a_primary_without_replicas_gives_verdicts_if_sentinels_know_only_those_that_confirm(  # noqa: PLR0917
    start, sentinels, own_valkey, prefix, others, vouched
):
    alone = store_on(own_valkey, prefix)
    assert await alone.init()
    await alone.close()
    url = await sentinels(*(naming(own_valkey.port, others=count) for count in others))
    settings = {"timeout": 0.5, "wait_replicas": 1}
    server = types.SimpleNamespace(url=url)
    revoker = await start(server, prefix=prefix, new=False, ready=False, redis=settings)
    locator = revoker.service.store.source.lookups._confirmation._locator
    await eventually(lambda: named_for_long(locator))
    if vouched:
        await eventually(lambda: has_verdict(revoker))
        assert (await revoke(revoker, issued())).status == 503
    else:
        assert await status_of(revoker, issued()) == 503


async def named_for_long(locator):
    return locator.naming is not None and locator.naming.asked - locator.naming.since > Confirmation.FRESH_S


async def has_verdict(revoker):
    return await status_of(revoker, issued()) == 200
