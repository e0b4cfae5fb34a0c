"""The page that shows an OpenAPI document to people: one file, no script, nothing from elsewhere."""

import base64
import hashlib
import html
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

Json = Mapping[str, Any]

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: light-dark(#0550ae, #79b8ff) }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem 1.5rem 4rem }
a { color: var(--link) }
code { font: .9em ui-monospace, monospace; background: var(--soft); border-radius: 3px; padding: .1em .3em }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
h3 { margin: 2rem 0 .25rem }
h3 code { font-size: 1em }
.method { text-transform: uppercase; font-weight: 700 }
nav ul { columns: 18rem; padding-left: 1.25rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0 }
td { border-top: 1px solid var(--line) }
th { font-weight: 600 }
td ul { margin: 0; padding-left: 1.1rem }
p { margin: .4rem 0 }
"""

POLICY: Final = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's ``Content-Security-Policy``: its own style, and nothing else at all."""


def page(document: Json) -> str:
    """The document as one page."""
    info = document["info"]
    title = html.escape(f"{info['title']} {info['version']}")
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1>{_prose(info['description'])}",
            '<p><a href="openapi.json">openapi.json</a></p>',
            f"<nav>{_contents(document)}</nav>",
            "".join(_sections(document)),
            "<h2>Types</h2>",
            "".join(_type(name, schema) for name, schema in document["components"]["schemas"].items()),
            "</body></html>\n",
        )
    )


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _contents(document: Json) -> str:
    return _list(
        f'<a href="#{operation["operationId"]}"><code>{html.escape(path)}</code></a>'
        for path, _, operation in _operations(document)
    )


def _sections(document: Json) -> Iterator[str]:
    for tag in document["tags"]:
        of_tag = [each for each in _operations(document) if tag["name"] in each[2]["tags"]]
        if of_tag:
            yield f"<h2>{html.escape(tag['name'])}</h2>"
        for path, method, operation in of_tag:
            yield _operation(path, method, operation, document)


def _operation(path: str, method: str, operation: Json, document: Json) -> str:
    parts = [
        f'<section id="{operation["operationId"]}"><h3><span class="method">{method}</span> ',
        f"<code>{html.escape(path)}</code></h3>",
        _prose(operation["summary"] + "."),
        _prose(operation.get("description", "")),
    ]
    rows = [
        f"<tr><td><code>{html.escape(each['name'])}</code></td><td>{each['in']}</td><td>{_kind(each['schema'])}</td>"
        f"<td>{'required' if each.get('required') else ''}</td>"
        f"<td>{_prose(each.get('description') or each['schema'].get('description', ''))}</td></tr>"
        for each in operation.get("parameters", ())
    ]
    parts.append(_table(("Parameter", "In", "Type", "", ""), rows))
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        media = " or ".join(f"<code>{html.escape(each)}</code>" for each in content)
        asked = next(iter(content.values()))["schema"]
        parts.append(f"<p>Body: {_kind(asked)} as {media}.</p>")
    rows = [
        f"<tr><td>{status}</td><td>{_prose(answer['description'])}</td><td>{_bodies(answer)}</td></tr>"
        for status, answer in (
            (status, _resolved(answer, document)) for status, answer in operation["responses"].items()
        )
    ]
    parts.append(_table(("Status", "Meaning", "Body"), rows))
    return "".join((*parts, "</section>"))


def _bodies(answer: Json) -> str:
    return ", ".join(
        _kind(each["schema"]) if media == "application/json" else f"<code>{html.escape(media)}</code>"
        for media, each in answer.get("content", {}).items()
    )


def _resolved(value: Json, document: Json) -> Json:
    """What a reference points at."""
    if "$ref" not in value:
        return value
    found: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found  # type: ignore[no-any-return]  # a document is JSON


def _type(name: str, schema: Json) -> str:
    required = set(schema.get("required", ()))
    ways = [way["required"] for way in schema.get("anyOf", ())]
    rows = [
        f"<tr><td><code>{html.escape(member)}</code></td><td>{_kind(each)}</td>"
        f"<td>{'required' if member in required else ''}</td>"
        f"<td>{_prose(each.get('description', ''))}</td></tr>"
        for member, each in schema.get("properties", {}).items()
    ]
    needed = " or ".join(", ".join(f"`{member}`" for member in way) for way in ways)
    return "".join(
        (
            f'<section id="{html.escape(name)}"><h3><code>{html.escape(name)}</code></h3>',
            _prose(schema.get("description", "")),
            _prose(f"Required: {needed}." if needed else ""),
            _table(("Member", "Type", "", ""), rows),
            "</section>",
        )
    )


def _kind(schema: Json) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{html.escape(str(each))}</code>" for each in schema["enum"])
    if schema.get("type") == "array":
        longest = f"up to {schema['maxItems']:,} of " if "maxItems" in schema else "list of "
        return longest + _kind(schema.get("items", {}))
    bounds = [
        f"{word} {schema[name]:,}"
        for name, word in (("maxLength", "at most"), ("minimum", "from"), ("maximum", "to"))
        if name in schema
    ]
    kind = html.escape(str(schema.get("type", "anything")))
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


def _prose(text: str) -> str:
    """Paragraphs, lists and `code` of Markdown; nothing else of it is used here."""
    if not text:
        return ""
    told = []
    for block in text.split("\n\n"):
        for listed, lines in itertools.groupby(block.splitlines(), lambda line: line.startswith("- ")):
            if listed:
                told.append(_list(_inline(line[2:]) for line in lines))
            else:
                told.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "".join(told)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _table(heads: Iterable[str], rows: list[str]) -> str:
    head = "".join(f"<th>{each}</th>" for each in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>" if rows else ""
