"""Writes every file that is made from the code; `make docs` runs it.

These are the OpenAPI document, the reference pages and a schema of docs/, the table of the providers, and the
chart's copies and schema. A test fails while one of them differs from what this would write.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from revoker.cli import config
from revoker.config.canary import CanarySettings
from revoker.config.edge import EdgeSettings
from revoker.config.schema import Settings
from revoker.metrics import CanaryMetrics, Metrics

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from deploy import chart_readme, openapi, reference_pages  # noqa: E402  # found only now
from tests.providers.tokens import PROVIDERS, Action, ProviderToken  # noqa: E402  # likewise

API: Final = ROOT / "service/revoker/api"
CHART: Final = ROOT / "helm/revoker"
MONITORING: Final = ROOT / "deploy/monitoring"

PROVIDERS_PAGE: Final = ROOT / "docs/providers/README.md"

CHART_SETS: Final = {
    "ServerSettings": {"port", "ops_port", "tls_cert_file", "tls_key_file", "tls_client_ca_file"},
    "RedisSettings": {"url_file", "password_file"},
    "UpstreamSettings": {"secret_file"},
    "CanaryUpstreamSettings": {"secret_file"},
    "CanaryRoundSettings": {"key_file", "issuer", "audience"},
    "SessionSettings": {"signing_keys_dir", "refresh_key_file"},
    "ConsoleSettings": {"client_secret_file", "secret_sign_in"},
}
"""Settings that the chart itself writes into the configuration; its values may not contain them."""

MADE_BY_CHART: Final = {"EdgeRevocationSettings", "EdgeSessionSettings", "CanaryServerSettings"}
"""Sections that its values do not have."""

CHART_DEFAULTS: Final = {"UpstreamSettings": {"url"}, "CanaryUpstreamSettings": {"url"}}
"""Required settings that the chart writes unless its values have them."""

METRICS_HEAD: Final = """\
# Metrics

`/metrics` has these metrics, in the format of Prometheus or, if requested, OpenMetrics. It answers while
the store is down. No label takes a value that a client controls, so the number of series is bounded. Every
value of a label that is listed here exists from the start at 0, so a rate needs no `or vector(0)`.

`instance` and `job` are Prometheus's own labels. With `workers` above 1, the metrics cover all processes of
a machine, and the counts of the other processes are up to a second old. [runbook.md](runbook.md) has the
alerts that use these metrics. A [canary](canary.md) has those of the second table, and no others.

*Generated from `service/revoker/metrics.py` by `make docs`.*
"""

METRICS_TABLE: Final = """
| Metric | Type | Labels | Meaning |
| --- | --- | --- | --- |
"""


CONFIGURATION_HEAD: Final = """\
# Configuration

Revoker reads one TOML file: `revoker serve --config PATH`, or `REVOKER_CONFIG`. The environment can set
every value as `REVOKER_<SECTION>__<KEY>`: an entry of a list of tables by its number
(`REVOKER_CALLERS__0__NAME`), a list as JSON. Only names with `__` are settings. A setting that is wrong,
unknown or unsafe stops the start: all errors are listed at once, one line each, and the exit status is 2.
SIGHUP reads the callers again; everything else needs a restart.

`revoker config example` prints a file with every setting. `revoker config check` finds the same errors as the
start, and those of keys and certificates, without contacting anything; it exits with status 2 if there are
any. [configuration.schema.json](configuration.schema.json), which `revoker config schema` prints, is for
editors and pipelines: `#:schema <its URL>` in the first line of a TOML file.

*Generated from the sections in `service/revoker/config/` by `make docs`.*
"""


EDGE_HEAD: Final = """
## Edges

`revoker edge --config PATH` reads a file with the same `[server]`, `[[issuers]]` and `[[callers]]`, and with
the sections below. [edge.md](edge.md) explains them.
"""


CANARY_HEAD: Final = """
## Canary

`revoker canary --config PATH` reads a file with the sections below. [canary.md](canary.md) explains them.
"""


def outputs() -> dict[Path, str]:
    """The files, and what they must contain."""
    document = openapi.document()
    return {
        API / "openapi.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        ROOT / "docs/api.md": reference_pages.api_page(document),
        ROOT / "docs/cli.md": reference_pages.cli_page(),
        ROOT / "docs/metrics.md": metrics_page(),
        ROOT / "docs/configuration.md": configuration_page(),
        ROOT / "docs/configuration.schema.json": config.schema_text(),
        PROVIDERS_PAGE: providers_page(),
        CHART / "values.schema.json": values_schema(),
        CHART / "README.md": chart_readme.readme(CHART),
        **{
            CHART / "files" / name: (MONITORING / name).read_text(encoding="utf-8")
            for name in ("rules.yaml", "dashboard.json")
        },
    }


def metrics_page() -> str:
    """A row for every metric, with the values of its labels where those are fixed."""
    tables = [_metrics_table(kind(CollectorRegistry())) for kind in (Metrics, CanaryMetrics)]
    return METRICS_HEAD + "\n## Canary\n".join(METRICS_TABLE + table for table in tables)


def _metrics_table(metrics: Metrics | CanaryMetrics) -> str:
    labels = {
        metric._name: metric._labelnames
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    rows = []
    for family in metrics.registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        named = "; ".join(
            f"`{label}`" + _values(family, label) for label in labels[family.name] if label != "le"
        )
        rows.append(f"| `{name}` | {family.type} | {named} | {family.documentation} |\n")
    return "".join(sorted(rows))


def configuration_page() -> str:
    """A table for every section, a row for every setting."""
    sections = [CONFIGURATION_HEAD]
    for section, field in Settings.model_fields.items():
        [model] = _models(field.annotation)
        sections += _tables(f"[[{section}]]" if section in {"issuers", "callers"} else f"[{section}]", model)
    sections.append(EDGE_HEAD)
    for section in ("upstream", "revocation", "sessions"):
        [model] = _models(EdgeSettings.model_fields[section].annotation)
        sections += [table.replace("## ", "### ") for table in _tables(f"[{section}]", model)]
    sections.append(CANARY_HEAD)
    for section, field in CanarySettings.model_fields.items():
        [model] = _models(field.annotation)
        name = f"[[{section}]]" if section == "targets" else f"[{section}]"
        sections += [table.replace("## ", "### ") for table in _tables(name, model)]
    return "".join(sections)


def _tables(name: str, model: type[BaseModel]) -> list[str]:
    """The table of a section, and those of the sections below it."""
    fields = model.model_fields
    below = {key: models for key, field in fields.items() if (models := _models(field.annotation))}
    rows = "".join(
        f"| `{key}` | {_default(setting)} | {' '.join((setting.description or '').split())} |\n"
        for key, setting in fields.items()
        if key not in below
    )
    description = " ".join((model.__doc__ or "").split())
    table = f"| Setting | Default | Meaning |\n| --- | --- | --- |\n{rows}"
    tables = [f"\n## `{name}`\n\n{description}\n\n{table}"]
    for key, [section] in below.items():
        tables += _tables(f"[{name.strip('[]')}.{key}]", section)
    return tables


def providers_page() -> str:
    """The page with a row for every token of `tests/providers/tokens.py`: what works with it, by which claim.

    The rest of the page is written by hand, so only the text between its two marks is replaced.
    """
    head, start, rest = PROVIDERS_PAGE.read_text(encoding="utf-8").partition("<!-- generated -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"{PROVIDERS_PAGE} has no place for the table")
    actions: dict[str, Action] = {
        "Log out everywhere": "user",
        "One session": "session",
        "One client": "client",
        "One token": "token",
        "By another claim": "claim",
        "Back-channel logout": "backchannel",
    }
    columns = ["Token", *actions]
    rows = [columns, ["---"] * len(columns)]
    for token in PROVIDERS:
        cells = [_effect(token, action) for action in actions.values()]
        rows.append([f"[{token.name}]({token.page}.md)", *cells])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{head}{start}\n{table}\n{end}{tail}"


def _effect(token: ProviderToken, action: Action) -> str:
    """By which claim an action finds a token, or why it does not."""
    if (why_not := token.limits.get(action)) is not None:
        return why_not
    if action == "backchannel":
        return "ends all sessions of the user" if token.logout_ends == "user" else "ends the session"
    return f"`{token.identity(action)[0]}`"


def _models(annotation: Any) -> set[type[BaseModel]]:
    """The sections that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*map(_models, get_args(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _values(family: Any, label: str) -> str:
    values = dict.fromkeys(sample.labels[label] for sample in family.samples if label in sample.labels)
    return ": " + ", ".join(values) if values else ""


def values_schema() -> str:
    """The schema of the chart's values, its part on Revoker's settings made from these."""
    path = CHART / "values.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    definitions = {
        name: section
        for settings in (EdgeSettings, CanarySettings, Settings)
        for name, section in settings.model_json_schema()["$defs"].items()
    }
    schema["$defs"] = {
        name: _section(name, section) for name, section in definitions.items() if name not in MADE_BY_CHART
    }
    return json.dumps(schema, indent=2) + "\n"


def _section(name: str, section: dict[str, Any]) -> dict[str, Any]:
    """A section without the settings that the chart writes."""
    own = CHART_SETS.get(name, set())
    return {
        "type": "object",
        "description": section["description"],
        "additionalProperties": False,
        "properties": {
            key: {part: value for part, value in setting.items() if part not in {"title", "default"}}
            for key, setting in section["properties"].items()
            if key not in own
        },
        "required": [
            key for key in section.get("required", []) if key not in own | CHART_DEFAULTS.get(name, set())
        ],
    }


def main() -> None:
    """Write what differs."""
    for path, text in outputs().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
