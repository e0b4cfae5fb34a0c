"""How few functions a claims-form introspection passes between the connection and the store's batch."""

import sys
from pathlib import Path

import pytest

import revoker as package
from tests.rig import forge

FOLDER = str(Path(package.__file__).parent)

CONNECTION = ["Connection.data_received", "Connection._respond_at_once", "start", "Connection._serve"]
RESUMED_CONNECTION = ["_Rest.send", "Connection._serve"]
BEFORE_THE_BATCH = ["Dispatcher._respond_fast", "Introspection.respond", "Verdicts.of_claims"]
"""Those that wait for the lookup, outermost first; functions that return before it are not counted."""


def functions_of_ours(frame):
    """The functions of the package on the stack, outermost first."""
    found = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(FOLDER):
            found.insert(0, frame.f_code.co_qualname)
        frame = frame.f_back
    return found


@pytest.fixture
async def stacks(revoker):
    """The stacks at every call of ``find`` and at every start or resumption of ``of_claims``."""
    claims = forge.claims()
    assert await revoker.active(claims), "from now on the caller is known"
    found = {"find": [], "of_claims": []}

    def profile(frame, event, _):
        name = frame.f_code.co_name
        of_connection = frame.f_code.co_qualname == "ParsedHeads.find"
        if (
            event == "call"
            and not of_connection
            and name in found
            and frame.f_code.co_filename.startswith(FOLDER)
        ):
            found[name].append(functions_of_ours(frame))

    sys.setprofile(profile)
    try:
        assert await revoker.active(claims)
    finally:
        sys.setprofile(None)
    return found


def test_four_functions_lead_from_the_connection_to_the_lookup(stacks):
    [*asking, find] = next(
        stack for stack in stacks["find"] if stack[0] == CONNECTION[0]
    )  # the watch asks, too
    assert asking == CONNECTION + BEFORE_THE_BATCH
    assert find.endswith(".find")


def test_as_many_lead_back(stacks):
    started, resumed = stacks["of_claims"]
    assert started == CONNECTION + BEFORE_THE_BATCH
    assert resumed == RESUMED_CONNECTION + BEFORE_THE_BATCH
