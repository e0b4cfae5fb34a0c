"""`revoker cutoff lift` and `revoker store key`: what they refuse before they read or change a store."""

import pytest

from tests.cli.test_commands import run
from tests.cli.test_export_and_import import Revoker, prefix, valkey  # noqa: F401  # fixtures


@pytest.fixture
def revoker(tmp_path, valkey, prefix):  # noqa: F811
    return Revoker(tmp_path, valkey, prefix)


@pytest.mark.parametrize("command", [("cutoff", "lift"), ("store", "key")], ids=" ".join)
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("token", "alice"), "'token' is not one of"),
        (("user",), "a user needs a value"),
        (("session",), "a session needs a value"),
        (("client",), "a client needs a value"),
        (("issuer", "alice"), "issuer takes no value"),
    ],
)
def test_a_wrong_kind_and_a_value_that_does_not_fit_it_are_refused(tmp_path, command, arguments, problem):
    status, out, err = run(tmp_path, *command, *arguments)

    assert (status, out) == (2, "")
    assert problem in err


def test_an_issuer_that_is_not_configured_is_refused_with_the_names_that_are(revoker):
    status, _, err = revoker.run("store", "key", "user", "alice", "--iss", "elsewhere")

    assert (status, err) == (2, "--iss: elsewhere is not an issuer of the configuration; they are: main\n")


def test_of_several_issuers_one_must_be_named(revoker):
    path = revoker.folder / "revoker.toml"
    other = '[[issuers]]\nname = "other"\nissuer = "https://other.test"\n'
    other += 'audiences = ["a"]\njwks_file = "main.jwks"\n'
    path.write_text(path.read_text() + other)
    status, _, err = revoker.run("store", "key", "user", "alice")

    assert (status, err) == (2, "--iss: name one of the issuers: main, other\n")


def test_where_there_is_no_cutoff_nothing_is_lifted_and_nothing_is_audited(revoker):
    status, out, err = revoker.run("cutoff", "lift", "user", "alice", "--reason", "a mistake")

    assert (status, out, err) == (1, "", "there is no such cutoff\n")
