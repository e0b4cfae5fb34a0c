"""Who may call, without HTTP; time is a number."""

import base64

import pytest

from revoker.auth import (
    MAX_PEERS,
    Caller,
    Callers,
    Credentials,
    FailureLimit,
    RateLimit,
    certificate_names,
    digest,
    new_secret,
)
from revoker.errors import InsufficientScope, InvalidClient, InvalidRequest, TooManyFailures, TooManyRequests
from revoker.models import Issuer

MAIN = Issuer(name="main", iss="https://idp.example.com")


class Monotonic:
    """A clock that is moved by hand."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def monotonic():
    return Monotonic()


def caller(name="edge", *secrets, **terms):
    digests = tuple(digest(secret) for secret in secrets or ("s3cret",))
    issuers = {MAIN.iss: MAIN}
    return Caller(
        name=name,
        **(
            {
                "digests": digests,
                "scopes": frozenset({"introspect"}),
                "issuers": issuers,
                "default_issuer": MAIN,
            }
            | terms
        ),
    )


def basic(pair, peer="10.0.0.1"):
    return Credentials(authorization="Basic " + base64.b64encode(pair.encode()).decode(), peer=peer)


def exhaust(callers, peer="10.0.0.1"):
    """Send wrong secrets until they are refused; returns how many were allowed."""
    for allowed in range(1000):
        try:
            callers.authenticate(basic("edge:wrong", peer))
        except TooManyFailures:
            return allowed
        except InvalidClient:
            continue
    raise AssertionError("guessing is never refused")


def test_twenty_guesses_are_allowed_at_once_and_then_one_per_second(monotonic):
    callers = Callers([caller()], monotonic=monotonic)
    assert exhaust(callers) == 20

    monotonic.now += 2.5

    assert 1 <= exhaust(callers) <= 2
    monotonic.now += 3600
    assert exhaust(callers) == 20


def test_a_right_secret_is_never_throttled(monotonic):
    callers = Callers([caller()], monotonic=monotonic)
    exhaust(callers)

    assert callers.authenticate(basic("edge:s3cret")).name == "edge"
    with pytest.raises(TooManyFailures):
        callers.authenticate(basic("edge:wrong"))


def test_guesses_of_one_address_do_not_count_against_another(monotonic):
    callers = Callers([caller()], monotonic=monotonic)
    exhaust(callers, "10.0.0.1")

    assert exhaust(callers, "10.0.0.2") == 20


def test_the_number_of_peers_whose_failures_are_counted_is_bounded(monotonic):
    failures = FailureLimit(monotonic)
    for number in range(9000):
        failures.count(f"peer-{number}")

    assert len(failures) == MAX_PEERS == 8192


def test_a_header_is_cached_only_once_it_was_right(monotonic):
    callers = Callers([caller()], monotonic=monotonic)
    wrong, right = basic("edge:wrong"), basic("edge:s3cret")
    with pytest.raises(InvalidClient):
        callers.authenticate(wrong)
    callers.authenticate(right)

    assert callers.cached(wrong.authorization) is None
    assert callers.cached(right.authorization).name == "edge"
    assert callers.cached("") is None


def test_the_number_of_cached_headers_is_bounded(monotonic):
    callers = Callers([caller()], monotonic=monotonic)
    headers = ["Bearer" + " " * number + "s3cret" for number in range(1, 1001)]
    headers += [f"bearer{header[6:]}" for header in headers]
    for header in headers:
        callers.authenticate(Credentials(authorization=header))

    assert 0 < sum(callers.cached(header) is not None for header in headers) <= 1024


def test_a_long_correct_header_is_always_accepted_and_never_cached(monotonic):
    callers = Callers([caller()], monotonic=monotonic)
    long = "Bearer" + " " * 30_000 + "s3cret"
    for _ in range(2):
        assert callers.authenticate(Credentials(authorization=long)).name == "edge"

    assert callers.cached(long) is None


@pytest.mark.row("ATK-10")
def test_a_secret_counts_to_its_last_byte(monotonic):
    long = "x" * 72
    callers = Callers([caller("edge", long + "a"), caller("other", long + "b")], monotonic=monotonic)

    assert callers.authenticate(basic(f"edge:{long}a")).name == "edge"
    for pair in (f"edge:{long}b", f"edge:{long}", f"edge:{long}a\0"):
        with pytest.raises(InvalidClient):
            callers.authenticate(basic(pair))
    assert callers.authenticate(Credentials(authorization=f"Bearer {long}b")).name == "other"


def test_a_caller_without_a_secret_authenticates_by_certificate_alone(monotonic):
    callers = Callers([caller(), caller("mesh", digests=())], monotonic=monotonic)

    for pair in ("mesh:", "mesh:" + "0" * 64):
        with pytest.raises(InvalidClient):
            callers.authenticate(basic(pair))
    assert callers.authenticate(Credentials(certificate=frozenset({"mesh", "unknown"}))).name == "mesh"


def test_an_empty_secret_is_nobody_s_whatever_the_digests_are(monotonic):
    callers = Callers([caller("edge", "")], monotonic=monotonic)
    attempts = [
        basic("edge:"),
        *(Credentials(authorization=text) for text in ("Bearer", "Bearer ", "bearer  \t", "Basic ZWRnZTo=")),
        Credentials(client_id="edge", client_secret=""),
    ]

    for credentials in attempts:
        with pytest.raises(InvalidClient):
            callers.authenticate(credentials)
    with pytest.raises(InvalidClient):
        callers.by_secret("", lambda: "10.0.0.1")


def test_a_certificate_that_names_two_callers_names_none(monotonic):
    callers = Callers([caller(), caller("mesh")], monotonic=monotonic)

    with pytest.raises(InvalidClient):
        callers.authenticate(Credentials(certificate=frozenset({"mesh", "edge"})))


def test_only_names_that_can_be_a_callers_are_read_from_a_certificate():
    certificate = (
        ("commonName", "edge"),
        ("organizationName", "admin"),
        ("DNS", "mesh"),
        ("URI", "spiffe://x"),
    )

    assert certificate_names(certificate) == {"edge", "mesh"}


def test_two_credentials_at_once_are_malformed(monotonic):
    callers = Callers([caller()], monotonic=monotonic)

    with pytest.raises(InvalidRequest):
        callers.authenticate(
            Credentials(authorization="Bearer s3cret", client_id="edge", client_secret="s3cret")
        )


def test_scopes_and_audiences_bind():
    edge = caller(audiences=frozenset({"api://a"}))

    edge.require("introspect")
    with pytest.raises(InsufficientScope):
        edge.require("revoke")
    assert edge.may_see("api://a") and edge.may_see(["x", "api://a"])
    assert not any(map(edge.may_see, ("api://b", ["api://b"], [], None, "api://a/")))
    assert caller().may_see(None)


def test_the_issuer_that_is_meant():
    assert caller().issuer(None) is MAIN
    assert caller().issuer("https://other") is None
    with pytest.raises(InvalidRequest):
        caller(default_issuer=None).issuer(None)
    with pytest.raises(InvalidRequest):
        caller().require_issuer("https://other")


def test_a_new_secret_has_256_bits_and_comes_with_its_digest():
    secret, sha256 = new_secret()

    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    assert sha256 == digest(secret)
    assert new_secret() != new_secret()


def spent(limit, most=1000):
    """How many requests in a row are let through."""
    for count in range(most):
        try:
            limit.spend()
        except TooManyRequests:
            return count
    return most


@pytest.mark.parametrize(("per_second", "at_once"), [(10, 10), (1, 1), (0.5, 1), (2.5, 2)])
def test_a_rate_limit_lets_a_second_s_worth_through_at_once(per_second, at_once):
    assert spent(RateLimit(per_second, monotonic=Monotonic())) == at_once


def test_a_rate_limit_refills_over_time_to_one_seconds_worth(monotonic):
    limit = RateLimit(10, monotonic=monotonic)
    assert spent(limit) == 10
    monotonic.now += 0.5
    assert spent(limit) == 5
    monotonic.now += 3600
    assert spent(limit) == 10


def test_a_request_that_counts_for_none_gives_nothing_back(monotonic):
    limit = RateLimit(10, monotonic=monotonic)
    assert spent(limit, 4) == 4
    limit.charge(-1)

    assert spent(limit) == 6


def test_what_a_request_is_charged_beyond_the_limit_delays_the_next(monotonic):
    limit = RateLimit(10, monotonic=monotonic)
    limit.spend()
    limit.charge(99)
    monotonic.now += 9
    assert spent(limit) == 0
    monotonic.now += 1
    assert spent(limit) == 10
