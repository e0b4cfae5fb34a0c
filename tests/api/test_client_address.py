"""``server.trusted_proxies``: whose address is logged and limited behind a gateway."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revoker.api.client_address import MAX_PROXIES, ClientAddresses
from tests.rig.service import SECRETS

TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1")
GATEWAY = "10.0.0.1"


def client(peer=GATEWAY, *, forwarded=(), x=()):
    return ClientAddresses(TRUSTED).behind(peer, forwarded, x)


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        (["203.0.113.9, 198.51.100.7,10.0.0.3 ,\t10.0.0.2"], "198.51.100.7"),
        (["203.0.113.9", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
        (["203.0.113.9,198.51.100.7", "10.0.0.3, 10.0.0.2"], "198.51.100.7"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all trusted: the farthest
        (["198.51.100.7:4711"], "198.51.100.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:DB8:0::7]:443, 2001:db8:1::9"], "2001:db8::7"),
        (["::ffff:198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
        (["unknown, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.7, unix:, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.7,, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.7,"], GATEWAY),
        ([""], GATEWAY),
        (["198.51.100.256"], GATEWAY),
        (["198.51.100.07"], GATEWAY),
        (["fe80::1%eth0"], GATEWAY),
        (["198.51.100.7 198.51.100.8"], GATEWAY),
        (['"198.51.100.7"'], GATEWAY),
    ],
)
def test_x_forwarded_for_is_read_from_the_right_as_far_as_it_is_trusted(lists, expected):
    assert client(x=lists) == expected


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (["for=198.51.100.7"], "198.51.100.7"),
        (["For=198.51.100.7;proto=https;by=10.0.0.1"], "198.51.100.7"),
        (['proto=https;host="a,b;c\\"d";for=198.51.100.7'], "198.51.100.7"),
        (["for=203.0.113.9, for=198.51.100.7, for=10.0.0.2"], "198.51.100.7"),
        (["for=203.0.113.9", "for=198.51.100.7", "for=10.0.0.2"], "198.51.100.7"),
        (['for="198.51.100.7:4711"'], "198.51.100.7"),
        (['for="198.51.100.7:_port"'], "198.51.100.7"),
        (['for="[2001:db8::7]"'], "2001:db8::7"),
        (['for="[2001:db8::7]:4711" , for="10.0.0.2"'], "2001:db8::7"),
        (['for="198\\.51.100.7"'], "198.51.100.7"),
        (["for=198.51.100.7:4711"], "198.51.100.7"),  # not by the letter, but clear
        (['for="[::ffff:198.51.100.7]"'], "198.51.100.7"),
        ([", for=198.51.100.7 ,,"], "198.51.100.7"),
        (["for=198.51.100.7;"], "198.51.100.7"),
        (["for=198.51.100.7, for=unknown, for=10.0.0.2"], "10.0.0.2"),
        (["for=198.51.100.7, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
        (["for=198.51.100.7, proto=https, for=10.0.0.2"], "10.0.0.2"),
        (["for=198.51.100.7, for=10.0.0.3;for=10.0.0.4, for=10.0.0.2"], "10.0.0.2"),
        (['for="2001:db8::7"'], GATEWAY),
        (["for="], GATEWAY),
        (["198.51.100.7"], GATEWAY),
        (['for="198.51.100.7'], GATEWAY),
        (['for=198.51.100.7;x=", for=10.0.0.2'], GATEWAY),  # a quote that the client leaves open
        (['for=203.0.113.9;x=", for="[2001:db8::7]", for="10.0.0.2"'], GATEWAY),
        (['for="203.0.113.9', "for=198.51.100.7"], "198.51.100.7"),
    ],
)
def test_forwarded_is_read_from_the_right_as_far_as_it_is_trusted(lists, expected):
    assert client(forwarded=lists) == expected


@pytest.mark.parametrize(
    ("forwarded", "x", "expected"),
    [
        ("for=198.51.100.7", "198.51.100.7", "198.51.100.7"),
        ("for=198.51.100.7", "203.0.113.9", GATEWAY),
        ("for=203.0.113.9, for=10.0.0.2", "198.51.100.7, 10.0.0.2", "10.0.0.2"),
        ("for=10.0.0.2", "198.51.100.7, 10.0.0.2", "10.0.0.2"),
        ("for=203.0.113.9, for=198.51.100.7", "192.0.2.4, 198.51.100.7", "198.51.100.7"),
        ("for=unknown", "198.51.100.7", GATEWAY),
        ("nonsense", "198.51.100.7", GATEWAY),
        ("for=unknown", "unknown", GATEWAY),
    ],
)
def test_both_headers_count_as_far_as_they_agree(forwarded, x, expected):
    assert client(forwarded=[forwarded], x=[x]) == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:2::1", "2001:db8:2::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("/run/revoker.sock", "/run/revoker.sock"),
        ("10.0.0.1", "198.51.100.7"),
        ("::ffff:10.0.0.1", "198.51.100.7"),
        ("2001:db8:1::1%eth0", "198.51.100.7"),
    ],
)
def test_only_a_trusted_peer_may_name_another_address(peer, expected):
    assert client(peer, forwarded=["for=198.51.100.7"], x=["198.51.100.7"]) == expected


def test_a_network_may_be_written_as_mapped_ipv6():
    addresses = ClientAddresses(["::ffff:10.0.0.0/104"])
    assert addresses.behind("10.1.2.3", [], ["198.51.100.7"]) == "198.51.100.7"
    assert addresses.behind("11.1.2.3", [], ["198.51.100.7"]) == "11.1.2.3"


def test_a_long_list_is_read_up_to_a_limit():
    hops = [f"10.0.0.{n}" for n in range(255, 0, -1)]
    assert client(x=[", ".join(["198.51.100.7", *hops])]) == f"10.0.0.{MAX_PROXIES}"
    assert client(x=["198.51.100.7", *hops]) == f"10.0.0.{MAX_PROXIES}"


@given(
    st.lists(st.text(st.sampled_from('for=10.2"[]:;, \\_unkow\x7fé\udc80'), max_size=60), max_size=4),
    st.lists(st.text(st.sampled_from("10.2[]:, _\x7fé\udc80"), max_size=60), max_size=4),
)
def test_whatever_the_headers_say_an_address_comes_back(forwarded, x):
    import ipaddress

    ipaddress.ip_address(client(forwarded=forwarded, x=x))


# Through the front door


def by_gateway(address):
    return {"X-Forwarded-For": f"203.0.113.1, {address}"}


@pytest.fixture
async def behind_gateway(start, valkey):
    return await start(valkey, server={"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]})


async def test_audit_and_request_lines_name_the_client(behind_gateway, events):
    body = {"sub": "user-1", "iss": "main"}
    body["iss"] = behind_gateway.service._settings.issuers[0].issuer
    answer = await behind_gateway.post("/revoke-user", body, headers=by_gateway("198.51.100.7, 10.0.0.2"))
    assert answer.status == 200
    peers = {event["event"]: event["peer"] for event in events if "peer" in event}
    assert peers["user_revoked"] == peers["request"] == "198.51.100.7"


@pytest.mark.row("9700-12")
async def test_without_the_setting_nobody_is_believed(revoker, events):
    headers = {**by_gateway("198.51.100.7"), "Forwarded": "for=198.51.100.7"}
    assert (await revoker.post("/revoke", {"token": "x"}, headers=headers)).status == 200
    assert {event["peer"] for event in events if event["event"] == "request"} == {"127.0.0.1"}


async def guess(running, number, address):
    headers = by_gateway(address)
    basic = f"Bearer wrong-{number}"
    return await running.post(
        "/introspect", {"token": "x"}, caller=None, headers={**headers, "Authorization": basic}
    )


async def test_clients_behind_one_gateway_are_limited_one_by_one(behind_gateway):
    for number in itertools.count():
        answer = await guess(behind_gateway, number, "198.51.100.7")
        if answer.status == 429:
            break
        assert answer.status == 401
    assert (await guess(behind_gateway, 0, "198.51.100.8")).status == 401


@pytest.mark.row("9700-12")
async def test_a_client_that_writes_other_addresses_to_the_left_is_limited_all_the_same(behind_gateway):
    for number in range(1000):
        forged = f"203.0.113.{number % 256}, 198.51.100.9"
        answer = await guess(behind_gateway, number, forged)
        if answer.status == 429:
            return
    raise AssertionError("never limited")


async def test_a_wrong_gateway_key_counts_for_the_client_too(behind_gateway, events):
    async def ask(number, address):
        headers = {**by_gateway(address), "X-Revoker-Key": f"wrong-{number}"}
        return (await behind_gateway.ask("GET", "/forward-auth", headers=headers)).json["error_description"]

    for number in itertools.count():
        if "too many" in await ask(number, "198.51.100.10"):
            break
    assert "too many" not in await ask(0, "198.51.100.11")
    headers = {**by_gateway("198.51.100.10"), "X-Revoker-Key": SECRETS["gateway"]}
    answer = await behind_gateway.ask(
        "GET", "/forward-auth", headers={**headers, "Authorization": f"Bearer {behind_gateway.token()}"}
    )
    assert answer.status == 200


def test_a_line_that_cannot_be_read_costs_no_more_than_its_length():
    """Quadratic time would be hours for these, and stop the process: anybody can send one."""
    addresses = ClientAddresses(["10.0.0.0/8"])
    for spaces in (" " * 1_000_000, "\t" * 1_000_000):
        for line in (f"for=1.2.3.4;{spaces}\\", f"for=1.2.3.4{spaces}\\", f"{spaces}x", f'for="{spaces}'):
            assert addresses.behind("10.0.0.1", [line], ()) == "10.0.0.1"
