"""The README of the Helm chart: a row for each of its values, with the comment before it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

HEAD: Final = """\
# Helm chart of Revoker

{description}. Chart {version}, for Revoker {app_version} and Kubernetes {kubernetes}.
`docs/kubernetes.md` of the documentation has examples for trial and production.

<!-- not run: needs a Kubernetes cluster; make test-kubernetes installs the chart on an API server -->
```sh
helm install revoker revoker-{version}.tgz --values values.yaml
helm test revoker
```

`helm install` refuses values that the chart does not have, by `values.schema.json`. Settings of Revoker
itself are below `config`, with the names of `docs/configuration.md`.

*Generated from `values.yaml` by `make docs`.*

## Values

| value | default | meaning |
| --- | --- | --- |
"""


def readme(chart: Path) -> str:
    """The page."""
    about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    head = HEAD.format(
        description=about["description"].rstrip("."),
        version=about["version"],
        app_version=about["appVersion"],
        kubernetes=about["kubeVersion"].removeprefix(">=").removesuffix("-0") + " or later",
    )
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)  # noqa: S101  # values are a table
    return head + "".join(_rows(node, "", "", text.splitlines()))


def _rows(node: yaml.MappingNode, prefix: str, inherited: str, lines: list[str]) -> Iterator[str]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        comment = _comment(lines, key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _rows(value, f"{name}.", comment, lines)
        else:
            default = json.dumps(_plain(value), ensure_ascii=False)
            meaning = " ".join(dict.fromkeys(part for part in (inherited, comment) if part))
            yield f"| `{name}` | `{_cell(default)}` | {_cell(_code(meaning))} |\n"
        inherited = ""


def _comment(lines: list[str], at: int) -> str:
    """The comment right before a line; examples of YAML and rules of dashes in it are left out."""
    found: list[str] = []
    for line in reversed(lines[:at]):
        text = line.strip()
        if not text.startswith("#") or text.startswith("# -----"):
            break
        found.insert(0, text.removeprefix("#").removeprefix(" "))
    return " ".join(text for text in found if not re.match(r"\s|- |\w+: [\[{]", text)).rstrip(":,")


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node))


def _code(text: str) -> str:
    """Names in angle brackets are no HTML."""
    return re.sub(r"<([\w-]+)>", r"`<\1>`", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
