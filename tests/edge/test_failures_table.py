"""Every row of the table of docs/edge.md that says what happens at a failure has tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

FOLLOWING, STALENESS, WITH_LOSSES, PAUSES, BOUND, MUTANTS, FEED, CAMPAIGN = (
    "tests/edge/test_following.py",
    "tests/edge/test_staleness.py",
    "tests/edge/test_settings_and_losses.py",
    "tests/edge/test_pauses.py",
    "tests/edge/test_bound.py",
    "tests/faults/test_edge_checker_on_mutants.py",
    "tests/api/test_feed.py",
    "tests/faults/edge_nemesis.py",
)

TESTS = {
    "The upstream ends, or the network to it": [
        (FOLLOWING, "test_another_upstream_is_followed_when_one_fails"),
        (CAMPAIGN, "cut_edge_one"),
        (CAMPAIGN, "reset_edge"),
    ],
    "All upstreams": [
        (STALENESS, "test_too_old_means_no_verdict_anywhere_and_not_ready"),
        (STALENESS, "test_an_edge_that_may_ask_asks"),
        (CAMPAIGN, "cut_edge"),
    ],
    "The upstream cannot read its store": [
        (FOLLOWING, "test_an_upstream_that_cannot_read_its_store_is_left_for_another"),
        (STALENESS, "test_an_upstream_that_cannot_read_its_store_keeps_no_edge_fresh"),
        (MUTANTS, "test_fresh_by_a_timer"),
    ],
    "Messages are late": [
        (BOUND, "test_no_revoked_token_is_active_beyond_the_bound"),
        (MUTANTS, "test_staleness_by_the_edges_own_clock"),
        (CAMPAIGN, "slow_edge"),
    ],
    "The edge is stopped, or reads too slowly": [
        (FEED, "test_a_consumer_that_does_not_read_is_dropped"),
        (CAMPAIGN, "hang_edge"),
        (CAMPAIGN, "slow_consumer"),
    ],
    "The edge ends": [
        (FOLLOWING, "test_nothing_is_answered_by_a_snapshot"),
        (CAMPAIGN, "kill_edge"),
    ],
    "The machine is paused, or its wall clock is set forward by more than a second": [
        (PAUSES, "test_after_a_pause_there_is_no_answer"),
        (PAUSES, "test_an_edge_that_was_paused_samples_and_answers_again"),
        (CAMPAIGN, "step_edge_clock"),
    ],
    "A proxy holds back the stream": [
        (FOLLOWING, "test_a_proxy_that_holds_back_streams_is_polled_through"),
        (FOLLOWING, "test_polls_go_on_while_a_stream_is_tried_again"),
    ],
    "The cursor is too old, or the store has lost data": [
        (FOLLOWING, "test_the_old_copy_serves_until_the_new_one_is_complete"),
        (FOLLOWING, "test_the_old_copy_serves_no_longer_than_it_may"),
        (FEED, "test_a_cursor_whose_entry_is_gone_means_a_reload"),
        ("tests/edge/test_with_the_service.py", "test_a_loss_of_data_reaches_the_edge"),
        (CAMPAIGN, "trim"),
    ],
    "A loss of data is settled by a cutoff": [
        (WITH_LOSSES, "test_what_was_issued_before_a_loss_is_inactive"),
        (WITH_LOSSES, "test_in_a_cluster_a_loss_covers_what_has_a_key_in_its_slots"),
    ],
    "A snapshot breaks off, is too short, or has a line that is not understood": [
        (FOLLOWING, "test_nothing_is_answered_by_a_snapshot"),
        (FOLLOWING, "test_the_old_copy_serves_until_the_new_one_is_complete"),
        (MUTANTS, "test_a_snapshot_that_breaks_off"),
    ],
    "A snapshot does not begin within 40 s, or nothing of it arrives for 10 s": [
        (FOLLOWING, "test_a_snapshot_that_does_not_come_is_loaded_from_another_upstream"),
    ],
    "An event is not understood": [
        (FOLLOWING, "test_what_it_does_not_understand_makes_it_load_a_snapshot"),
    ],
    "Reloads do not end": [
        (FOLLOWING, "test_reloads_without_end_are_answered_with_growing_pauses"),
    ],
    "The store's clock is set": [
        (STALENESS, "test_the_stores_clock_may_be_set"),
        ("tests/edge/test_clock.py", "test_a_step_of_the_clock_is_forgotten_with_the_next_sample"),
        (CAMPAIGN, "step_store_clock"),
    ],
    "A confirmation is refused or gets no answer": [
        ("tests/edge/test_confirming.py", "test_it_follows_an_upstream_that_takes_no_confirmations"),
    ],
    "The secret is replaced": [
        (FOLLOWING, "test_a_secret_may_be_replaced_while_it_runs"),
    ],
    "Settings of the issuer differ from the service: name, aliases, claims": [
        (WITH_LOSSES, "test_an_issuer_that_the_service_names_differently_gets_no_verdicts"),
    ],
    "Limits of the issuer are wider than at the service": [
        (WITH_LOSSES, "test_limits_beyond_those_of_the_service_are_of_no_use"),
    ],
    "The issuer's keys cannot be loaded": [
        (WITH_LOSSES, "test_without_the_keys_of_an_issuer_there_are_no_verdicts_on_its_tokens"),
    ],
}
"""By the first column: tests, and faults of campaigns."""


def rows():
    page = (ROOT / "docs/edge.md").read_text()
    table = page.partition("## When something fails")[2].partition("##")[0]
    return re.findall(r"^\| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)[2:]


def test_every_row_has_tests():
    assert rows() == list(TESTS)


def test_they_exist():
    for file, name in {test for tests in TESTS.values() for test in tests}:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name
