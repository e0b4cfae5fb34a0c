"""What no schema can say: which issuers this service has, and what time it is.

A value that the schema allows gives way to another one that it allows, so that nothing becomes
valid or invalid by it.
"""

import os
import time

import schemathesis

ISSUER = os.environ["REVOKER_TEST_ISSUER"]
DATES = {"before": -60, "until": 3600, "exp": -60}
READ_FREELY = ("/introspect", "/explain")


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if isinstance(body, dict) and not case.path.startswith(READ_FREELY):
        if isinstance(body.get("iss"), str) and 1 <= len(body["iss"]) <= 16384:
            body["iss"] = ISSUER
        for name, seconds in DATES.items():
            if type(body.get(name)) in {int, float} and 0 <= body[name] <= 99_999_999_999:
                body[name] = int(time.time()) + seconds
