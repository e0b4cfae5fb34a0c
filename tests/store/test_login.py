"""Logging in: passwords that are replaced, Sentinels with their own login, and messages that say why not."""

import contextlib
import fcntl
import os
import pty
import ssl
import subprocess
import sys
import termios

import pytest
from cryptography.hazmat.primitives import serialization

from revoker.errors import StoreUnavailable
from revoker.store.wire.addresses import SentinelAccess, address_of
from tests.rig.certificates import Authority
from tests.rig.listener import listening
from tests.rig.probes import RestrictedUser, answers, eventually, issued, revoke
from tests.rig.reply_proxy import ReplyProxy, encode
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S
from tests.rig.tls_relay import tls_before
from tests.rig.topologies import single_node_cluster
from tests.store.conftest import store_on
from tests.store.test_sentinels import TIMEOUT_S, naming


class Address:
    def __init__(self, url):
        self.url = url


@pytest.fixture
def password_file(tmp_path):
    file = tmp_path / "password"
    file.write_text("old\n")
    return file


async def why_not(url, **access):
    """Why a URL leads to no primary."""
    with pytest.raises(StoreUnavailable) as refused:
        await address_of(url, timeout=TIMEOUT_S, **access).connect(lambda _: None)
    return str(refused.value)


async def leads_to_a_primary(url, **access):
    (await address_of(url, timeout=TIMEOUT_S, **access).connect(lambda _: None)).abort()


# Passwords that change


async def test_a_password_that_is_replaced_is_used_by_the_next_login(start, own_valkey, password_file):
    RestrictedUser(own_valkey, "resetpass", ">old", "+@all")
    url = f"redis://app@127.0.0.1:{own_valkey.port}/0"
    revoker = await start(Address(url), redis={"password_file": str(password_file)})
    password_file.write_text("new\n")
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "resetpass", ">new")
        client.execute_command("CLIENT", "KILL", "USER", "app")
    await eventually(lambda: answers(revoker))
    assert (await revoke(revoker, issued())).status == 200


async def test_open_connections_log_in_again_with_a_new_password(start, own_valkey, password_file):
    """Managed services end connections whose token has expired."""
    user = RestrictedUser(own_valkey, "resetpass", ">old", ">new", "+@all")
    async with ReplyProxy.before(own_valkey.port) as proxy:
        url = f"redis://app@127.0.0.1:{proxy.port}/0"
        revoker = await start(Address(url), redis={"password_file": str(password_file)})
        await revoker.service.store.watch.beat()
        logins, connections = proxy.seen.count("AUTH"), proxy.seen.count("PING")
        assert logins > 0
        proxy.rules["AUTH"] = encode(RuntimeError("WRONGPASS not yet"))  # the server learns it later
        password_file.write_text("new\n")
        await revoker.service.store.watch.beat()
        assert await answers(revoker)
        proxy.rules.clear()
        user.allow("<old")
        seen = proxy.seen.count("AUTH")
        await revoker.service.store.watch.beat()
        assert proxy.seen.count("AUTH") >= seen + logins  # every connection
        renewed = proxy.seen.count("AUTH")
        await revoker.service.store.watch.beat()
        assert (proxy.seen.count("AUTH"), proxy.seen.count("PING")) == (renewed, connections)
        assert await answers(revoker)


async def test_a_password_file_that_vanishes_is_named(valkey, tmp_path):
    for content, message in (
        (None, "redis.password_file can't be read"),
        ("", "redis.password_file is empty"),
    ):
        file = tmp_path / "vanishing"
        if content is not None:
            file.write_text(content)
        assert await why_not(valkey.url, password_file=str(file)) == message


# Messages


async def test_a_wrong_password_is_reported_with_the_servers_words_and_the_setting(own_valkey, password_file):
    RestrictedUser(own_valkey, "resetpass", ">right", "+@all")
    url = f"redis://app@127.0.0.1:{own_valkey.port}/0"
    message = await why_not(url, password_file=str(password_file))
    assert message.startswith("the store refused the password (WRONGPASS ")
    assert message.endswith("): check redis.password_file")
    clustered = store_on(Address(f"redis+cluster://app:wrong@127.0.0.1:{own_valkey.port}"), "rv")
    with pytest.raises(StoreUnavailable) as refused:
        await clustered.source.follow()
    await clustered.close()
    assert "the store refused the password (WRONGPASS " in str(refused.value)
    assert "redis.url" in str(refused.value)


async def test_no_message_repeats_the_password_although_the_server_does(tmp_path):
    server = Valkey(tmp_path / "server", "--rename-command", "AUTH", "").start()
    try:
        for user in ("", "app"):
            message = await why_not(f"redis://{user}:hidden@127.0.0.1:{server.port}")
            assert message.startswith("the store refused the password (ERR unknown command 'AUTH')")
    finally:
        server.kill()


async def test_what_a_server_says_before_it_ends_the_connection_is_reported(own_valkey):
    with own_valkey.client() as client:
        client.ping()
        client.config_set("maxclients", 1)
        message = await why_not(own_valkey.url)
        client.config_set("maxclients", 1000)
    assert message == "the store ended the connection (ERR max number of clients reached)"


PROTECTED = "DENIED protected mode is enabled and no password is set for the default user"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("WRONGPASS no", "the store refused the password (WRONGPASS no): check redis.password_file"),
        (PROTECTED, f"the store ended the connection ({PROTECTED})"),
    ],
    ids=["a wrong password", "protected mode"],
)
async def test_an_error_before_the_end_of_a_connection_says_what_to_correct(password_file, words, expected):
    async def refuse(reader, writer):
        await reader.read(4096)  # all: unread input would reset the connection
        writer.write(encode(RuntimeError(words)))
        writer.close()

    async with listening(refuse) as port:
        assert await why_not(f"redis://app@127.0.0.1:{port}", password_file=str(password_file)) == expected


async def test_a_missing_password_is_asked_for(own_valkey):
    with own_valkey.client() as client:
        client.config_set("requirepass", "right")
    assert await why_not(own_valkey.url) == (
        "the store requires a password: set it in redis.password_file or redis.url"
    )


async def test_a_url_of_the_wrong_kind_is_reported(tmp_path, valkey):
    server = Valkey(tmp_path / "node", "--cluster-enabled", "yes").start()
    try:
        assert "redis.url must begin with redis+cluster://" in await why_not(server.url)
    finally:
        server.kill()
    alone = store_on(Address(f"redis+cluster://127.0.0.1:{valkey.port}"), "rv")
    with pytest.raises(StoreUnavailable, match=r"not part of a cluster: redis\.url must begin with redis://"):
        await alone.source.follow()
    await alone.close()


async def test_keys_of_several_slots_are_reported_as_a_cluster_where_info_does_not(start, own_valkey):
    async with ReplyProxy.before(own_valkey.port) as proxy:
        revoker = await start(proxy)
        proxy.rules["MGET"] = encode(RuntimeError("CROSSSLOT Keys in request don't hash to the same slot"))
        answer = await revoker.post("/introspect", issued(), caller="gateway")
        assert answer.status == 503
        assert "redis.url must begin with redis+cluster://" in answer.json["error_description"]


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "authority")


@pytest.fixture
async def tls_port(valkey, authority):
    settings = authority.server_settings()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings["tls_cert_file"], settings["tls_key_file"])
    async with tls_before(valkey.port, context) as port:
        yield port


async def test_tls_on_one_side_only_is_reported(valkey, tls_port, authority):
    assert await why_not(f"redis://127.0.0.1:{tls_port}") == (
        "the store ended the connection without an answer: if its port expects TLS, write rediss instead of"
        " redis in redis.url"
    )
    message = await why_not(f"rediss://127.0.0.1:{valkey.port}?ssl_ca_certs={authority.certificate}")
    assert message == (
        "the store can't be reached with TLS: if its port has none, write redis instead of rediss in"
        " redis.url"
    )


async def test_a_certificate_is_checked_by_authority_and_name_as_the_url_says(tls_port, authority):
    url = f"rediss://127.0.0.1:{tls_port}"
    await leads_to_a_primary(f"{url}?ssl_ca_certs={authority.certificate}")
    message = await why_not(url)
    assert message.startswith("the store's certificate is not accepted (")
    assert "ssl_ca_certs" in message
    await leads_to_a_primary(f"{url}?ssl_cert_reqs=none")
    other_name = f"rediss://localhost:{tls_port}?ssl_ca_certs={authority.certificate}"
    assert "not accepted" in await why_not(other_name)
    await leads_to_a_primary(f"{other_name}&ssl_check_hostname=false")


@pytest.fixture
async def mutual_tls_port(valkey, authority):
    """A port that asks for a certificate of the authority."""
    settings = authority.server_settings()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(settings["tls_cert_file"], settings["tls_key_file"])
    async with tls_before(valkey.port, context) as port:
        yield port


async def test_a_certificate_that_the_server_wants_is_asked_for(mutual_tls_port, authority):
    url = f"rediss://127.0.0.1:{mutual_tls_port}?ssl_ca_certs={authority.certificate}"
    message = await why_not(url)  # whether the server's alert arrives before the end is chance
    assert message.startswith(("the store refused TLS (", "the store ended the connection without an answer"))
    assert message.endswith(": if it asks for a certificate, check ssl_certfile in redis.url")


async def test_a_client_certificate_that_is_replaced_is_used_by_the_next_login(
    mutual_tls_port, authority, tmp_path, events
):
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"

    def put_there(files):
        for source, target in zip(files, (certificate, key), strict=True):
            target.write_bytes(source.read_bytes())

    put_there(Authority(tmp_path / "stranger").client_files("app"))
    server = address_of(
        f"rediss://127.0.0.1:{mutual_tls_port}?ssl_ca_certs={authority.certificate}"
        f"&ssl_certfile={certificate}&ssl_keyfile={key}",
        timeout=TIMEOUT_S,
    )
    with pytest.raises(StoreUnavailable, match="check ssl_certfile"):
        await server.connect(lambda _: None)
    put_there(authority.client_files("app"))
    (await server.connect(lambda _: None)).abort()
    key.write_text("half written")  # the files are replaced one after the other
    for _ in range(2):
        (await server.connect(lambda _: None)).abort()
    assert [event["event"] for event in events] == ["tls_files_unusable"]  # not one for each login


LOADS = """
import ssl, sys
from revoker.store.wire.login import Tls

try:
    Tls("", *sys.argv[1:]).context()
except ssl.SSLError:
    print("unusable")
"""


def test_a_key_with_a_passphrase_is_unusable_and_nothing_is_asked_at_the_terminal(authority, tmp_path):
    certificate, key = authority.client_files("app")
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    terminal, of_child = pty.openpty()
    try:
        child = subprocess.run(
            [sys.executable, "-c", LOADS, str(certificate), str(encrypted)],
            stdin=of_child,
            capture_output=True,
            text=True,
            check=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            timeout=HANGS_S,
        )
    finally:
        os.close(terminal)
        os.close(of_child)
    assert child.stdout == "unusable\n"


# Sentinels


@pytest.fixture
async def sentinel(own_valkey, valkey):
    """A stand-in that names the shared server, and requires a password."""
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "watcher", "on", ">sentinel", "~*", "&*", "+@all")
        client.config_set("requirepass", "sentinel")
    async with ReplyProxy.before(own_valkey.port) as proxy:
        proxy.rules |= naming(valkey.port)
        yield proxy


async def test_sentinels_have_a_password_of_their_own(sentinel, tmp_path):
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
    file = tmp_path / "sentinel-password"
    file.write_text("sentinel\n")
    for access in (
        SentinelAccess(password="sentinel"),
        SentinelAccess(password_file=str(file)),
        SentinelAccess(username="watcher", password="sentinel"),
    ):
        await leads_to_a_primary(url, sentinels=access)
    file.write_text("wrong")
    message = await why_not(url, sentinels=SentinelAccess(password_file=str(file)))
    assert "1 refused the password (WRONGPASS " in message
    assert f"check redis.sentinel_password_file (at 127.0.0.1:{sentinel.port})" in message
    assert "requires a password: set it in redis.sentinel_password_file" in await why_not(url)


async def test_sentinels_without_a_password_accept_the_one_of_the_servers(own_valkey, password_file):
    with own_valkey.client() as client:
        client.config_set("requirepass", "old")
    async with ReplyProxy.before(own_valkey.port) as proxy:
        proxy.rules |= {
            **naming(own_valkey.port),
            "AUTH": encode(RuntimeError("ERR AUTH <password> called without any password configured")),
            "PING": encode(b"PONG"),
        }
        url = f"redis+sentinel://127.0.0.1:{proxy.port}/main"
        await leads_to_a_primary(url, password_file=str(password_file))


async def test_sentinels_have_tls_of_their_own(valkey, authority, tmp_path):
    settings = authority.server_settings()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings["tls_cert_file"], settings["tls_key_file"])
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(ReplyProxy.before(valkey.port))
        proxy.rules |= naming(valkey.port)
        port = await stack.enter_async_context(tls_before(proxy.port, context))
        url = f"redis+sentinel://127.0.0.1:{port}/main"
        await leads_to_a_primary(url, sentinels=SentinelAccess(tls=True, ca_file=str(authority.certificate)))
        assert "expects TLS, set redis.sentinel_tls to on" in await why_not(url)
        message = await why_not(url, sentinels=SentinelAccess(tls=True))
        assert "certificate is not accepted" in message
        assert "check redis.sentinel_ca_file" in message
        plain = f"redis+sentinel://127.0.0.1:{proxy.port}/main"
        message = await why_not(plain, sentinels=SentinelAccess(tls=True, ca_file=str(authority.certificate)))
        assert "if its port has none, set redis.sentinel_tls to off" in message


async def test_open_connections_of_a_primary_behind_sentinels_log_in_again(start, own_valkey, password_file):
    user = RestrictedUser(own_valkey, "resetpass", ">old", ">new", "+@all")
    async with contextlib.AsyncExitStack() as stack:
        primary = await stack.enter_async_context(ReplyProxy.before(own_valkey.port))
        proxy = await stack.enter_async_context(ReplyProxy.before(own_valkey.port))
        proxy.rules |= naming(primary.port)
        url = f"redis+sentinel://app@127.0.0.1:{proxy.port}/main"
        revoker = await start(Address(url), redis={"password_file": str(password_file)})
        logins = primary.seen.count("AUTH")
        password_file.write_text("new\n")
        user.allow("<old")
        await revoker.service.store.watch.beat()
        assert primary.seen.count("AUTH") >= 2 * logins > 0
        assert await answers(revoker)


async def test_open_connections_to_a_cluster_log_in_again(start, tmp_path, password_file):
    with single_node_cluster(tmp_path / "node") as server, server.client() as client:
        user = RestrictedUser(server, "resetpass", ">old", ">new", "+@all")
        url = f"redis+cluster://app@127.0.0.1:{server.port}"
        revoker = await start(Address(url), redis={"password_file": str(password_file)})
        logins = client.info("commandstats")["cmdstat_auth"]["calls"]
        password_file.write_text("new\n")
        user.allow("<old")
        await revoker.service.store.watch.beat()
        assert client.info("commandstats")["cmdstat_auth"]["calls"] > logins
        assert await answers(revoker)
        await revoker.close()
