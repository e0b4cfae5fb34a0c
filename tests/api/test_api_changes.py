"""A client that was written for the last release still works."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

from tests.rig.service import OPENAPI

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("api_changes", ROOT / "deploy/api_changes.py")
api_changes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(api_changes)

RELEASED = {path.stem: json.loads(path.read_text()) for path in (ROOT / "tests/api/released").glob("*.json")}

ACCEPTED = {
    "0.1.0": {
        "body: maxProperties is 64 now": "more fields of a form are a denial of service",
        "POST /explain: body.claims": "0.1 documented objects in a form, which it did not accept",
        "POST /explain: body.header": "likewise",
        ": body.amr": "0.1 documented lists in a form, which it did not accept",
        "POST /sessions: body.client_id: pattern is": "0.1 refused it, but documented it for JSON alone",
        "POST /sessions: body.scope: pattern is": "likewise",
        "GET /sessions: parameter iss: minLength is 1 now": "0.1 refused an empty one",
    }
}
"""By release, the breaking changes that are wanted, each with its reason; CHANGELOG.md has them too."""


@pytest.mark.parametrize("release", RELEASED)
def test_nothing_breaks_a_client_of_a_release(release):
    found = api_changes.breaking(RELEASED[release], OPENAPI)
    accepted = ACCEPTED.get(release, {})
    assert [change for change in found if not any(part in change for part in accepted)] == []
    assert [part for part in accepted if not any(part in change for change in found)] == []


def _without_operation(document):
    del document["paths"]["/revoke"]["post"]


def _with_required_member(document):
    document["components"]["schemas"]["RevokeUser"]["required"].append("reason")


def _with_fewer_alternatives(document):
    document["components"]["schemas"]["Introspect"]["anyOf"].pop(0)


def _with_shorter_text(document):
    document["components"]["schemas"]["BlockUser"]["properties"]["sub"]["maxLength"] = 10


def _without_form(document):
    del document["paths"]["/introspect"]["post"]["requestBody"]["content"][
        "application/x-www-form-urlencoded"
    ]


def _without_member_of_an_answer(document):
    del document["components"]["schemas"]["UserCutoff"]["properties"]["cutoff"]


def _with_null_in_an_answer(document):
    document["components"]["schemas"]["RevokedKey"]["properties"]["kid"] = {
        "anyOf": [{"type": "string"}, {"type": "null"}]
    }


def _with_another_status(document):
    responses = document["paths"]["/sessions"]["post"]["responses"]
    responses["200"] = responses.pop("201")


def _with_required_parameter(document):
    parameters = document["paths"]["/sessions"]["get"]["parameters"]
    next(one for one in parameters if one["name"] == "iss")["required"] = True


def _without_bearer(document):
    document["paths"]["/introspect"]["post"]["security"].remove({"bearer": []})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_without_operation, "POST /revoke: removed"),
        (_with_required_member, "POST /revoke-user: body.reason is required now"),
        (_with_fewer_alternatives, "POST /introspect: body: token are not enough any more"),
        (_with_shorter_text, "POST /block-user: body.sub: maxLength is 10 now"),
        (_without_form, "POST /introspect: application/x-www-form-urlencoded is not accepted any more"),
        (_without_member_of_an_answer, "POST /revoke-user: 200.cutoff removed"),
        (_with_null_in_an_answer, "POST /revoke-key: 200.kid can be null now"),
        (_with_another_status, "POST /sessions: 201 is not answered any more"),
        (_with_required_parameter, "GET /sessions: parameter iss is required now"),
        (_without_bearer, "POST /introspect: authentication by bearer removed"),
    ],
)
def test_a_change_that_breaks_clients_is_found(change, expected):
    changed = copy.deepcopy(OPENAPI)
    change(changed)
    assert expected in api_changes.breaking(OPENAPI, changed)


def test_more_that_is_accepted_and_answered_breaks_nothing():
    changed = copy.deepcopy(OPENAPI)
    schemas = changed["components"]["schemas"]
    schemas["RevokeUser"]["properties"]["note"] = {"type": "string"}
    schemas["UserCutoff"]["properties"]["note"] = {"type": "string"}
    schemas["Introspect"]["anyOf"].append({"required": ["jti"]})
    changed["paths"]["/new"] = changed["paths"]["/revoke"]
    changed["paths"]["/revoke"]["post"]["responses"]["402"] = {"description": "new"}
    assert api_changes.breaking(OPENAPI, changed) == []
