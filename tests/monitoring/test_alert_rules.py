"""Rules, runbook and dashboard as files: each alert has what belongs to it."""

import json
import re
import subprocess

import yaml

from tests.monitoring.conftest import LASTS, MONITORING, ROOT, hurried, tool

RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
ALERTS = {alert["alert"]: alert for group in RULES["groups"] for alert in group["rules"] if "alert" in alert}


def test_promtool_takes_the_rules():
    result = subprocess.run(
        [tool("promtool"), "check", "rules", "--lint-fatal", MONITORING / "rules.yaml"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_all_rules_pass_their_unit_tests():
    result = subprocess.run(
        [tool("promtool"), "test", "rules", MONITORING / "rules_test.yaml"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_unit_tested_firing_and_silent():
    tests = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    expected = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in expected if case.get("exp_alerts")}
    silent = {case["alertname"] for case in tests[0]["alert_rule_test"] if not case.get("exp_alerts")}
    assert fires == silent == set(ALERTS)


def test_every_alert_has_a_severity_and_links_to_its_section_of_the_runbook():
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert name in headings


def test_rules_and_summaries_distinguish_releases_by_namespace_and_job():
    for group in RULES["groups"]:
        for rule in group["rules"]:
            for grouping in re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"]):
                assert grouping.startswith("namespace, job"), rule
    for name in ALERTS.keys() - {"RevokerAbsent"}:
        summary = ALERTS[name]["annotations"]["summary"]
        assert summary.startswith("{{ with $labels.namespace }}{{ . }}/{{ end }}{{ $labels.job }}: "), name


def test_links_within_the_runbook_lead_somewhere():
    text = (ROOT / "docs/runbook.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_hurrying_leaves_no_long_duration_and_changes_nothing_else():
    for group in hurried(RULES)["groups"]:
        for rule in group["rules"]:
            assert not re.search(r"\[\d+[mhd]\]|offset \d+[mhd]", rule["expr"])
            assert rule.get("for", LASTS) == LASTS


def test_the_dashboard_selects_namespace_and_job_in_every_query():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job"]
    assert variables["namespace"]["allValue"] == ".*", "targets outside Kubernetes have no namespace"
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            selectors = re.findall(r"\{[^{}]*\}", target["expr"])
            assert selectors
            for selector in selectors:
                assert 'namespace=~"$namespace",job=~"$job"' in selector, panel["title"]


def test_the_dashboard_is_whole():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["targets"]
    places = sorted((panel["gridPos"]["y"], panel["gridPos"]["x"], panel["gridPos"]["w"]) for panel in panels)
    for row in {y for y, _, _ in places}:
        assert sum(w for y, _, w in places if y == row) == 24
