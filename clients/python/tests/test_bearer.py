"""What the integrations answer, without a framework."""

import pytest

from revoker_client import Introspection, RevokerDenied, RevokerUnavailable
from revoker_client.bearer import LONGEST_TOKEN, Refused, accepted, token_in, without_verdict

LONGEST = "x" * LONGEST_TOKEN


@pytest.mark.parametrize(
    ("value", "token"),
    [("Bearer x", "x"), ("bEARER  a.b_c~/+-==", "a.b_c~/+-=="), (f"Bearer {LONGEST}", LONGEST)],
)
def test_a_token_is_read_in_any_case_of_the_scheme(value, token):
    assert token_in([value]) == token


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([], ""),
        ([""], ""),
        (["Basic YTpi"], ""),
        (["Bearerx y"], ""),
        (["DPoP x"], ""),
        (["Bearer"], "invalid_request"),
        (["Bearer "], "invalid_request"),
        (["Bearer a b"], "invalid_request"),
        (["Bearer a,b"], "invalid_request"),
        (["Bearer \u00e9"], "invalid_request"),
        (["Bearer x\n"], "invalid_request"),
        (["Bearer x", "Bearer x"], "invalid_request"),
        (["Basic YTpi", "Bearer x"], "invalid_request"),
        ([f"Bearer {LONGEST}x"], "invalid_token"),
    ],
)
def test_what_is_no_token_is_401(values, error):
    with pytest.raises(Refused) as refused:
        token_in(values)
    assert (refused.value.status, refused.value.error) == (401, error)
    assert refused.value.headers["Cache-Control"] == "no-store"
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("cnf", [{"jkt": "x"}, {}])
def test_a_token_that_is_bound_to_a_key_is_no_bearer_token(cnf):
    with pytest.raises(Refused, match="bound to a key") as refused:
        accepted(Introspection(True, {"active": True, "cnf": cnf}), ())
    assert refused.value.status == 401


def test_every_scope_is_needed():
    token = Introspection(True, {"active": True, "scope": "a b"})
    assert accepted(token, ("a", "b")) is token
    with pytest.raises(Refused) as refused:
        accepted(token, ("a", "c"))
    assert (refused.value.status, refused.value.error) == (403, "insufficient_scope")
    assert 'scope="a c"' in refused.value.headers["WWW-Authenticate"]
    with pytest.raises(Refused):
        accepted(Introspection(True, {"active": True}), ("a",))


def test_no_verdict_is_503_with_the_time_that_the_service_asked_for():
    assert without_verdict(RevokerUnavailable("x", 7)).headers["Retry-After"] == "7"
    for error in (RevokerUnavailable("x"), RevokerDenied("x", 401, "invalid_client")):
        refused = without_verdict(error)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert "WWW-Authenticate" not in refused.headers
