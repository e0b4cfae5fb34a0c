"""Instances write the revocations that they remember back into a store that lost them, before any verdict."""

import asyncio
import hashlib
import shutil
import time

import pytest

from revoker.store import store as stores
from revoker.store.consistency import data_set
from revoker.store.consistency.acknowledged import Written
from revoker.store.scripts import TEXTS
from tests.rig.forge import envelope
from tests.rig.probes import answers, epoch_in, eventually, flush, issued, metric, revoke, status_of
from tests.rig.reply_proxy import Hold, ReplyProxy
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S, OTHER_ISSUER

ISS = issued()["iss"]


class Revoked:
    """Revocations of every kind, each with what it covers and what it does not."""

    def __init__(self):
        self.gone = []
        self.spared = [issued() for _ in range(3)]

    async def by(self, revoker, name):
        """Revoke through an instance; ``name`` keeps apart what two of them revoke."""
        old, since = time.time() - 60, time.time() - 30

        async def post(path, **body):
            assert (await revoker.post(path, {"iss": ISS, **body})).status == 200

        token = issued()
        assert (await revoke(revoker, token)).status == 200
        self.gone.append(token)
        for path, claim in (
            ("/revoke-user", "sub"),
            ("/revoke-session", "sid"),
            ("/revoke-client", "client_id"),
        ):
            value = f"{claim} of {name}"
            await post(path, **{claim: value}, before=old)
            self.gone.append(issued(old, **{claim: value}))
            self.spared.append(issued(since, **{claim: value}))
        grant = f"grant of {name}"
        await post("/revoke-claim", iss=OTHER_ISSUER, claim="grant_id", value=grant, before=since)
        self.gone.append(issued(since, iss=OTHER_ISSUER, grant_id=grant))
        user = f"but one session of {name}"
        await post("/revoke-user", sub=user, except_sid="kept", before=since)
        self.gone += [issued(old, sub=user), issued(old, sub=user, sid="other")]
        self.spared.append(issued(old, sub=user, sid="kept"))
        await post("/block-user", sub=f"blocked by {name}")
        self.gone.append(issued(sub=f"blocked by {name}"))
        await post("/revoke-key", kid=f"key of {name}")
        self.gone.append(envelope(issued(), f"key of {name}"))
        self.spared = [claims if "claims" in claims else envelope(claims, "sound") for claims in self.spared]
        await post("/revoke-issuer", iss=OTHER_ISSUER, before=old)
        self.gone.append(issued(old, iss=OTHER_ISSUER))
        self.spared.append(envelope(issued(since, iss=OTHER_ISSUER), "sound"))

    async def hold(self, *revokers, spared=True):
        for revoker in revokers:
            for claims in self.gone:
                assert not await revoker.active(claims), claims
            for claims in self.spared if spared else ():
                assert await revoker.active(claims), claims


async def two(start, valkey, **settings):
    first = await start(valkey, **settings)
    prefix = first.service.store.keys.epoch.split(":")[0]
    return first, await start(valkey, prefix=prefix, new=False, **settings)


async def settled(valkey, *revokers):
    for revoker in revokers:
        await eventually(lambda revoker=revoker: uses_the_epoch_of_the_store(valkey, revoker))


async def uses_the_epoch_of_the_store(valkey, revoker):
    await revoker.service.store.watch.beat()
    with valkey.client() as client:
        if not client.exists(revoker.service.store.keys.epoch):
            return False
    used = await metric(revoker, "revoker_store_epoch_timestamp_seconds")
    return used == pytest.approx(epoch_in(valkey, revoker).noticed / 1000, abs=5e-4)


def name_of(script):
    """As a :class:`ReplyProxy` names it."""
    return f"EVALSHA {hashlib.sha1(TEXTS[script]).hexdigest().upper()}"


@pytest.fixture
async def proxy(own_valkey):
    """Between an instance and ``own_valkey``."""
    async with ReplyProxy.before(own_valkey.port) as made:
        yield made
        for hold in made.holds.values():
            hold.released.set()


def remember(store, count):
    """Let an instance remember so many revocations of tokens, as if it had acknowledged them; their keys."""
    until = int((time.time() + 600) * 1000)
    keys = [f"{store.keys.epoch}:{number}" for number in range(count)]
    for key in keys:
        store.revocations.acknowledged.note(Written("revoke_token", (key,), 1, until))
    return keys


@pytest.fixture(params=["flushed", "empty disk", "empty replica promoted"])
def lose(request, own_valkey, tmp_path):
    def happen():
        if request.param == "flushed":
            flush(own_valkey)
        elif request.param == "empty disk":
            own_valkey.kill()
            own_valkey.lose_disk()
            own_valkey.start()
        else:
            empty = Valkey(tmp_path / "empty").start()
            with own_valkey.client() as client:
                client.replicaof("127.0.0.1", str(empty.port))
                while client.info("replication")["master_link_status"] != "up":
                    time.sleep(0.01)
                client.replicaof("NO", "ONE")
            empty.kill()

    return happen


@pytest.mark.parametrize("policy", ["ignore", "cutoff", "refuse"])
async def test_every_acknowledged_revocation_holds(start, own_valkey, lose, policy, monkeypatch):
    monkeypatch.setattr(stores, "NOTICED_MS", 0)
    revokers = await two(start, own_valkey, revocation={"data_loss": policy})
    revoked = Revoked()
    for name, revoker in enumerate(revokers):
        await revoked.by(revoker, name)
        await revoker.service.store.watch.beat()
    await revoked.hold(*revokers)
    for _ in range(2):
        lose()
        await settled(own_valkey, *revokers)
        if policy == "refuse":
            assert [await status_of(revoker, revoked.gone[0]) for revoker in revokers] == [503, 503]
            assert await revokers[0].service.store.accept()
        await revoked.hold(*revokers, spared=policy != "cutoff")


async def test_an_instance_puts_back_what_it_knows_before_its_first_verdict(start, own_valkey):
    first, second = await two(start, own_valkey, revocation={"data_loss": "ignore"})
    for revoker in (first, second):
        revoked = Revoked()
        await revoked.by(revoker, "one")
        flush(own_valkey)
        await revoked.hold(revoker)


async def test_what_was_revoked_while_a_loss_is_settled_is_remembered_as_well(start, own_valkey):
    revokers = await two(start, own_valkey, revocation={"data_loss": "ignore"})
    acknowledged, over = [], asyncio.Event()

    async def go_on(revoker):
        while not over.is_set():
            claims = issued()
            if (await revoke(revoker, claims)).status == 200:
                acknowledged.append(claims)

    async def acknowledges(count):
        return len(acknowledged) >= count

    async def lose_again_and_again():
        for _ in range(10):
            enough = len(acknowledged) + 11
            await eventually(lambda enough=enough: acknowledges(enough))
            flush(own_valkey)
        over.set()

    await asyncio.gather(lose_again_and_again(), *(go_on(revoker) for revoker in revokers for _ in range(2)))
    await settled(own_valkey, *revokers)
    assert len(acknowledged) > 100
    for revoker in revokers:
        for claims in acknowledged:
            assert not await revoker.active(claims)


async def test_much_is_put_back_in_the_background_once_while_requests_get_no_verdict(
    start, own_valkey, proxy, events, monkeypatch
):
    monkeypatch.setattr(data_set, "SETTLE_WAIT_S", 0.05)
    revoker = await start(proxy, revocation={"data_loss": "ignore"})
    lost, count = issued(), 10_000
    assert (await revoke(revoker, lost)).status == 200
    keys = remember(revoker.service.store, count)
    refill = proxy.holds[name_of("refill")] = Hold()
    flush(own_valkey)
    for _ in range(3):
        assert await status_of(revoker, lost) == 503
        assert (await revoke(revoker, issued())).status == 503
    await asyncio.wait_for(refill.reached.wait(), HANGS_S)
    with own_valkey.client() as client:
        assert client.exists(*keys) == 0
    refill.released.set()
    await eventually(lambda: answers(revoker))
    assert not await revoker.active(lost)
    with own_valkey.client() as client:
        assert client.exists(*keys) == count
    assert await metric(revoker, "revoker_refilled_revocations_total") == count + 1
    assert [event["event"] for event in events].count("data_lost") == 1


@pytest.mark.parametrize(
    ("present", "after"),
    [
        *((False, after) for after in (1, 2, 3, 40, 259, 260, 300, 404, 405, 406, 407)),
        *((True, after) for after in (1, 2, 3, 4, 5)),
    ],
)
async def test_a_loss_while_it_is_put_back_is_no_loss_of_it(start, own_valkey, proxy, present, after):
    """Flushes after so many scripts: the mark at the beginning, two that look for what is absent, 256 that
    restore, a mark, 144 that restore, a mark, that of the epoch, the mark at the end. Where all is present,
    there is nothing to restore.
    """
    revoker = await start(proxy, revocation={"data_loss": "ignore"})
    count = 400
    keys = remember(revoker.service.store, count)
    left = after
    with own_valkey.client() as client:  # a script that the server does not have would be counted twice
        for text in TEXTS.values():
            client.script_load(text.decode())

    def count_scripts(command):
        nonlocal left
        left -= command == "EVALSHA"
        if left == 0 and command == "EVALSHA":
            flush(own_valkey)

    with own_valkey.client() as client, client.pipeline() as pipeline:
        pipeline.flushall()
        for key in keys if present else ():
            pipeline.set(key, 1, px=700_000)
        pipeline.execute()
    proxy.after = count_scripts
    await eventually(lambda: answers(revoker))
    assert left <= 0
    with own_valkey.client() as client:
        assert client.exists(*keys) == count


async def test_a_lifted_cutoff_does_not_come_back(start, own_valkey):
    first, second = await two(start, own_valkey, revocation={"data_loss": "ignore"})
    claims = issued(time.time() - 60)
    body = {"iss": ISS, "sub": claims["sub"], "before": time.time() - 30}
    assert (await first.post("/revoke-user", body)).status == 200
    assert not await second.active(claims)
    store = second.service.store
    assert await store.revocations.lift_user(store.issuers[ISS], claims["sub"])
    await first.service.store.watch.beat()
    flush(own_valkey)
    await settled(own_valkey, first, second)
    assert await first.active(claims)


async def test_accepting_waits_for_those_that_put_back_and_makes_nobody_do_it_again(
    start, own_valkey, monkeypatch
):
    monkeypatch.setattr(stores, "NOTICED_MS", 0)
    revoker = await start(own_valkey, revocation={"data_loss": "refuse"})
    lost, store = issued(), revoker.service.store
    assert (await revoke(revoker, lost)).status == 200
    flush(own_valkey)
    assert await status_of(revoker, lost) == 503
    with own_valkey.client() as client:
        client.hset(store.keys.refills, "another", f"id {int(time.time() * 1000)}")
        accepting = asyncio.ensure_future(store.accept())
        await asyncio.wait({accepting}, timeout=0.5)
        assert not accepting.done()
        assert await status_of(revoker, lost) == 503
        client.hdel(store.keys.refills, "another")
    epoch = await accepting
    assert epoch.finding == "accepted"
    assert not await revoker.active(lost)
    assert epoch_in(own_valkey, revoker) == epoch
    assert await uses_the_epoch_of_the_store(own_valkey, revoker)
    assert await metric(revoker, "revoker_refilled_revocations_total") == 1


async def test_accepting_waits_until_every_instance_must_have_noticed(start, own_valkey):
    revoker = await start(own_valkey, revocation={"data_loss": "refuse"})
    flush(own_valkey)
    assert await status_of(revoker, issued()) == 503
    noticed = epoch_in(own_valkey, revoker).noticed
    accepted = await revoker.service.store.accept()
    assert accepted.noticed - noticed >= stores.NOTICED_MS


async def test_an_instance_that_takes_too_long_is_reported(start, own_valkey, monkeypatch):
    monkeypatch.setattr(stores, "ACCEPT_TRIES", 2)
    revoker = await start(own_valkey, revocation={"data_loss": "refuse"})
    with own_valkey.client() as client:
        client.hset(revoker.service.store.keys.refills, "another", f"id {int(time.time() * 1000) + 9999}")
    with pytest.raises(stores.StoreRefused, match="nothing was accepted"):
        await revoker.service.store.accept()


async def test_what_one_instance_puts_back_does_not_hide_the_loss_from_another(start, own_valkey, tmp_path):
    first, second = await two(start, own_valkey)
    prefix = first.service.store.keys.epoch.split(":")[0]
    for _ in range(5):
        assert (await revoke(first, issued())).status == 200
    own_valkey.kill()
    shutil.copytree(own_valkey.folder, tmp_path / "snapshot")
    own_valkey.start()
    third = await start(own_valkey, prefix=prefix, new=False)
    lost = issued()
    assert (await revoke(third, lost)).status == 200
    await third.close()
    await eventually(lambda: answers(first))
    await eventually(lambda: answers(second))
    scripts = first.service.store.scripts
    set_epoch, reached, released = scripts.set_epoch, asyncio.Event(), asyncio.Event()

    async def held(*args):
        reached.set()
        await released.wait()
        return await set_epoch(*args)

    # in this process: held back on its way, it would let the second instance be first
    scripts.set_epoch = held
    own_valkey.kill()
    own_valkey.lose_disk()
    shutil.copytree(tmp_path / "snapshot", own_valkey.folder, dirs_exist_ok=True)
    own_valkey.start()
    await asyncio.wait_for(reached.wait(), HANGS_S)
    await eventually(lambda: answers(second))
    assert not await second.active(lost)
    released.set()
    await settled(own_valkey, first, second)
    assert not await first.active(lost)
