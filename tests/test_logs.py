import io
import json
import logging
import warnings

import pytest
import structlog

from revoker import logs

JWS = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


@pytest.fixture
def lines():
    """What was logged so far, parsed; the logging of the process is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure(stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_an_event_is_one_line_with_time_level_logger_and_request(lines):
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("store").warning("slow", seconds=0.5)

    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning", "logger": "store", "event": "slow", "request_id": "r1", "seconds": 0.5,
    }  # fmt: skip


def test_control_characters_can_not_begin_a_line_of_their_own(lines):
    hostile = 'alice\n{"level": "info"}\r\u2028\x1b[2J\ud800'
    structlog.get_logger("audit").info("revoked", sub=hostile)

    (line,) = lines()
    assert line["sub"] == hostile


def test_libraries_log_in_the_same_form(lines):
    logging.getLogger("some.library").error("broke: %s", "it", extra={"detail": 1})

    (line,) = lines()
    assert (line["logger"], line["level"], line["event"]) == ("some.library", "error", "broke: it")
    assert line["detail"] == 1


def test_warnings_are_logged(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "old" in lines()[0]["event"]


def test_the_audit_log_ignores_the_level():
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("error", stream)
        structlog.get_logger("audit").info("revoked")
        structlog.get_logger("store").info("connected")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["revoked"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"token {JWS} refused", JWS),
        (JWS.rpartition(".")[0] + ".", "eyJzdWIi"),
        ("Authorization: Bearer 0123456789abcdef", "0123456789abcdef"),
        ("authorization: basic Z3c6c2VjcmV0c2VjcmV0", "Z3c6c2VjcmV0c2VjcmV0"),
        ("redis://user:hunter2@host:6379/0", "hunter2"),
    ],
)
def test_credentials_are_redacted_wherever_they_stand(lines, text, secret):
    log = structlog.get_logger("api")
    log.info(text)
    log.info("nested", claims={"a": [text]}, error=ValueError(text))
    logging.getLogger("library").warning("said %s", text)
    try:
        int(text)
    except ValueError:
        log.exception("failed")

    assert secret not in json.dumps(lines())
    assert len(lines()) == 4


def test_values_with_a_telling_name_are_redacted(lines):
    structlog.get_logger("api").info(
        "x", headers={"Authorization": "anything"}, refresh_token="abc", jti="j-1"
    )

    (line,) = lines()
    assert line["headers"] == {"Authorization": "[redacted]"}
    assert line["refresh_token"] == "[redacted]"
    assert line["jti"] == "j-1"


def test_fields_of_names_and_times_stay(lines):
    structlog.get_logger("api").info("listening", url="https://revoker.example.com:8443/x", sub="a.b.c@d")

    (line,) = lines()
    assert (line["url"], line["sub"]) == ("https://revoker.example.com:8443/x", "a.b.c@d")
