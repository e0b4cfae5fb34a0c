"""What no schema can say: the issuers of this service, its time, what a form omits, where credentials are.

A value that the schema allows is replaced by another one that it allows, so that no request becomes valid or
invalid by it.
"""

import os
import time

import jsonschema_rs
import schemathesis

FORM = "application/x-www-form-urlencoded"
ISSUER = os.environ["REVOKER_TEST_ISSUER"]
DATES = {"before": -60, "until": 3600, "exp": -60}
SESSIONS = ("sid", "except_sid")
READ_FREELY = ("/introspect", "/explain")


@schemathesis.hook
def filter_case(context, case):
    """Leave out forms that nothing but an empty value makes wrong: it counts as absent (RFC 6749 §3.2)."""
    if case.media_type != FORM or not isinstance(case.body, dict):
        return True
    if case.meta.generation.mode != schemathesis.GenerationMode.NEGATIVE:
        return True
    document = case.operation.schema.raw_schema
    schema = document["paths"][case.path][case.method.lower()]["requestBody"]["content"][FORM]["schema"]
    sent = {name: value for name, value in case.body.items() if value not in ("", None, [], [""])}
    whole = {**schema, "components": document["components"]}
    return sent == case.body or not jsonschema_rs.Draft202012Validator(whole).is_valid(sent)


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    form = case.media_type == FORM
    if form and case.path != "/token" and isinstance(body.get("client_secret"), str):
        del body["client_secret"]  # a second credential, beside the header
    if isinstance(body.get("wait_edges"), float) and body["wait_edges"].is_integer():
        body["wait_edges"] = int(body["wait_edges"])  # for JSON Schema 2.0 is an integer, too
    if "wait_edges" in body and _is_wait(body.get("wait_seconds", 0)):
        body["wait_seconds"] = 0  # nobody confirms anything
    if not case.path.startswith(READ_FREELY):
        absent = (None, "") if form else (None,)
        if isinstance(body.get("iss"), str) and 1 <= len(body["iss"]) <= 16384:
            body["iss"] = ISSUER
        if body.get("iss") in absent and any(isinstance(body.get(name), str) for name in SESSIONS):
            body["iss"] = ISSUER  # a sid that has the form of Revoker's own is refused without it
        for name, seconds in DATES.items():
            if type(body.get(name)) in {int, float} and 0 <= body[name] <= 99_999_999_999:
                body[name] = int(time.time()) + seconds


def _is_wait(seconds):
    return type(seconds) in {int, float} and 0 <= seconds <= 30
