"""Whatever settings follow others: what was revoked under the first is inactive under the second."""

import dataclasses

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from revoker.errors import InvalidToken
from revoker.models import ClaimNames, Issuer
from revoker.store.keys import Keys
from revoker.store.recorded_issuers import conflicts, reconciled
from revoker.tokens.claims import access_token_claims
from tests.conftest import EXAMPLES

NOW = 1_763_769_600_000
KEYS = Keys("rv")
ISSUERS = ("https://a.example.com", "https://b.example.com")
CLAIMS = ("jti", "uti", "sub", "oid", "sid", "client_id", "azp", "email")

names = st.lists(st.sampled_from(CLAIMS), unique=True, min_size=1, max_size=3).map(tuple)
mappings = st.none() | st.builds(
    ClaimNames, jti=names, sub=names, sid=names, client_id=names, revocable=names
)
values_of_claims = st.sampled_from([*"123", *"123", *"123", *"123", "", 3, None, ["1"]])
payloads = st.fixed_dictionaries({"iss": st.sampled_from(ISSUERS), **dict.fromkeys(CLAIMS, values_of_claims)})


@st.composite
def configurations(draw):
    """Issuers that share some addresses out among them, under a few names."""
    addresses = draw(st.permutations(ISSUERS))
    first = draw(st.integers(1, 2))
    shares = [addresses[:first], addresses[first : first + 1]]
    given_names = draw(st.permutations(["main", "other"]))
    return [
        Issuer(
            name=name,
            iss=iss,
            aliases=tuple(aliases),
            claim_names=draw(mappings),
            require_jti=False,
        )
        for name, (iss, *aliases) in zip(given_names, filter(None, shares), strict=False)
    ]


@st.composite
def changes(draw):
    """A configuration, and one that follows it: other addresses, one other list of names, or any other."""
    first = draw(configurations())
    lists = ("jti", "sub", "sid", "client_id", "revocable")
    changed = draw(st.sampled_from(("all", *["addresses"] * 5, *lists)))
    if changed == "all":
        return first, draw(configurations())
    if changed == "addresses":
        standard = [dataclasses.replace(issuer, claim_names=None) for issuer in first]
        return standard, [dataclasses.replace(issuer, claim_names=None) for issuer in draw(configurations())]
    second = [
        dataclasses.replace(
            issuer,
            claim_names=dataclasses.replace(issuer.claim_names or ClaimNames(), **{changed: draw(names)}),
        )
        for issuer in first
    ]
    return first, second


def found(payload, issuers):
    """All that a token can be revoked by: keys, and values of revocable claims; None where it is invalid."""
    issuer = next((issuer for issuer in issuers if payload["iss"] in (issuer.iss, *issuer.aliases)), None)
    if issuer is None:
        return None, frozenset(), frozenset()
    try:
        claims = access_token_claims(payload, None, issuer)
    except InvalidToken:
        return None, frozenset(), frozenset()
    return issuer, frozenset(filter(None, KEYS.of_token(claims, issuer))), frozenset(claims.revocable)


ALONE = Issuer(name="main", iss=ISSUERS[0], require_jti=False)
OTHER = Issuer(name="other", iss=ISSUERS[1], require_jti=False)
TOGETHER = dataclasses.replace(ALONE, aliases=(OTHER.iss,))


@given(payloads, changes())
@example({"iss": OTHER.iss, "sub": "1"}, ([TOGETHER], [ALONE, OTHER]))
@example({"iss": OTHER.iss, "sub": "1"}, ([ALONE, OTHER], [TOGETHER]))
@settings(max_examples=10 * EXAMPLES)  # few of them revoke anything and start
def test_what_was_revoked_is_inactive_wherever_the_start_is_not_refused(payload, change):
    first, second = change
    before, keys, values = found(payload, first)
    if before is None:
        return
    records = reconciled({}, first, NOW)
    used = {claim: NOW for claim, _ in values}
    records[before.name] = msgspec.structs.replace(records[before.name], revoked_by=used)
    if conflicts(records, second):
        return
    after, keys_then, values_then = found(payload, second)
    assert after is None or (keys <= keys_then and values <= values_then)
