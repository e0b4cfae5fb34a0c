"""What `helm test` runs: the service is ready, refuses strangers, and knows a caller where one is given."""

import base64
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

ca = os.environ.get("CHECK_CA", "")
tls = ssl.create_default_context(cafile=ca if os.path.exists(ca) else None)
if not os.path.exists(ca):
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE


def ask(url, data=None, caller=""):
    """Status and body of one request."""
    request = urllib.request.Request(url, data=data)
    if caller:
        request.add_header("Authorization", "Basic " + base64.b64encode(caller.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5, context=tls) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def expect(what, condition, seen):
    print("ok     " if condition else "NOT OK ", what, *([] if condition else [seen]))
    if not condition:
        sys.exit(1)


status, ready = ask(os.environ["CHECK_OPS_URL"] + "/readyz")
expect("ready", status == 200, ready)
for problem in ready["problems"]:
    print("        degraded:", problem["problem"], "-", problem["detail"])
introspect = os.environ["CHECK_URL"] + "/introspect"
seen = ask(introspect, b"token=x")
expect("a caller without a secret is refused", seen[0] == 401, seen)
if os.environ.get("CHECK_SECRET"):
    seen = ask(introspect, b"token=x", os.environ["CHECK_CALLER"] + ":" + os.environ["CHECK_SECRET"])
    expect("a token that is none is not active", seen == (200, {"active": False}), seen)
