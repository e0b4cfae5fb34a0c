"""Cutoffs of claims on the command line: their keys, taking them back, and as lines of a file."""

import json

import pytest

from tests.cli.test_export_and_import import prefix, revoker, valkey, write  # noqa: F401
from tests.rig import forge

LINES = [
    {"kind": "claim", "iss": forge.ISSUER, "claim": "grant_id", "value": 42, "reason": "returned"},
    {"kind": "claim", "iss": "main", "claim": "email", "value": "Alice@Example.com"},
]


@pytest.fixture
def stored(tmp_path, revoker):  # noqa: F811
    status, out, _ = revoker.run("import", write(tmp_path / "in.ndjson", LINES))
    assert (status, out.split()) == (0, ["claim", "2"])
    return revoker


def key(running, *arguments):
    status, out, err = running.run("store", "key", *arguments)
    assert status == 0, err
    return out.strip()


def test_the_key_of_a_claim_is_that_under_which_it_is_stored(stored):
    with stored.valkey.client() as client:
        for claim, value in (("grant_id", "42"), ("email", "alice@EXAMPLE.com")):
            found = key(stored, "claim", value, "--claim", claim)
            assert found.startswith(f"{stored.prefix}:claim-cutoff:main:{claim}:")
            assert client.exists(found)


def test_a_claim_cutoff_is_lifted_by_its_name_and_value(stored):
    status, out, _ = stored.run("cutoff", "lift", "claim", "ALICE@example.com", "--claim", "email")
    assert (status, out.startswith("lifted: ")) == (0, True)
    status, _, err = stored.run("cutoff", "lift", "claim", "43", "--claim", "grant_id")
    assert status == 1
    assert "there is no such cutoff" in err
    with stored.valkey.client() as client:
        assert not client.exists(key(stored, "claim", "alice@example.com", "--claim", "email"))
        assert client.exists(key(stored, "claim", "42", "--claim", "grant_id"))


@pytest.mark.parametrize("command", [("cutoff", "lift"), ("store", "key")], ids=" ".join)
@pytest.mark.parametrize(
    "arguments", [("claim", "42"), ("user", "alice", "--claim", "grant_id")], ids=" ".join
)
def test_the_name_of_a_claim_is_given_for_claims_and_for_nothing_else(revoker, command, arguments):  # noqa: F811
    status, _, err = revoker.run(*command, *arguments)

    assert status == 2
    assert "--claim" in err


def test_an_export_has_the_lines_that_were_imported(tmp_path, stored):
    assert stored.run("export", "--output", "out.ndjson")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()][1:-1]

    assert sorted((line["kind"], line["claim"], line["value"], line.get("reason")) for line in lines) == [
        ("claim", "email", "alice@example.com", None),
        ("claim", "grant_id", "42", "returned"),
    ]


def test_a_line_whose_claim_is_not_revocable_is_reported(tmp_path, revoker):  # noqa: F811
    line = {"kind": "claim", "iss": "main", "claim": "tenant", "value": "t"}
    status, _, err = revoker.run("import", write(tmp_path / "in.ndjson", [line]))

    assert status == 1
    assert "line 1: claim tenant is not revocable at issuer main" in err
