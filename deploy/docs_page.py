"""The page that shows the OpenAPI document to people: one file, no script, nothing from elsewhere.

Every link of the contents and every section is a line of its own with its id: ``revoker.api.openapi`` leaves
out the lines of what a service does not serve.
"""

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
            f"<nav>{_contents(document)}</nav>\n",
            "".join(_sections(document)),
            "<h2>Types</h2>\n",
            "".join(_type(name, schema) for name, schema in document["components"]["schemas"].items()),
            "</body></html>\n",
        )
    )


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _contents(document: Json) -> str:
    links = (
        f'<li><a href="#{operation["operationId"]}"><code>{html.escape(path)}</code></a></li>'
        for path, _, operation in _operations(document)
    )
    return "\n".join(("<ul>", *links, "</ul>"))


def _sections(document: Json) -> Iterator[str]:
    for tag in document["tags"]:
        name = html.escape(tag["name"])
        yield f'\n<h2 id="{name}">{name}</h2>\n'
        for path, method, operation in _operations(document):
            if tag["name"] in operation["tags"]:
                yield _operation(path, method, operation, document)


def _operation(path: str, method: str, operation: Json, document: Json) -> str:
    blocks = [
        f'<section id="{operation["operationId"]}"><h3><span class="method">{method}</span> ',
        f"<code>{html.escape(path)}</code></h3>",
        _prose(operation["summary"] + "."),
        _prose(operation.get("description", "")),
    ]
    rows = [
        f"<tr><td><code>{html.escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
        f"<td>{_kind(parameter['schema'])}</td><td>{'required' if parameter.get('required') else ''}</td>"
        f"<td>{_prose(parameter.get('description') or parameter['schema'].get('description', ''))}</td></tr>"
        for parameter in operation.get("parameters", ())
    ]
    blocks.append(_table(("Parameter", "In", "Type", "", ""), rows))
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        media = " or ".join(f"<code>{html.escape(media_type)}</code>" for media_type in content)
        body = next(iter(content.values()))["schema"]
        blocks.append(f"<p>Body: {_kind(body)} as {media}.</p>")
    rows = [
        f"<tr><td>{status}</td><td>{_prose(answer['description'])}</td><td>{_bodies(answer)}</td></tr>"
        for status, answer in (
            (status, _resolved(answer, document)) for status, answer in operation["responses"].items()
        )
    ]
    blocks.append(_table(("Status", "Meaning", "Body"), rows))
    return "".join((*blocks, "</section>\n"))


def _bodies(answer: Json) -> str:
    return ", ".join(
        _kind(content["schema"]) if media == "application/json" else f"<code>{html.escape(media)}</code>"
        for media, content in answer.get("content", {}).items()
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
    alternatives = [alternative["required"] for alternative in schema.get("anyOf", ())]
    rows = [
        f"<tr><td><code>{html.escape(member)}</code></td><td>{_kind(kind)}</td>"
        f"<td>{'required' if member in required else ''}</td>"
        f"<td>{_prose(kind.get('description', ''))}</td></tr>"
        for member, kind in schema.get("properties", {}).items()
    ]
    needed = " or ".join(", ".join(f"`{member}`" for member in members) for members in alternatives)
    return "".join(
        (
            f'<section id="{html.escape(name)}"><h3><code>{html.escape(name)}</code></h3>',
            _prose(schema.get("description", "")),
            _prose(f"Required: {needed}." if needed else ""),
            _table(("Member", "Type", "", ""), rows),
            "</section>\n",
        )
    )


def _kind(schema: Json) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{html.escape(str(value))}</code>" for value in schema["enum"])
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
    blocks = []
    for block in text.split("\n\n"):
        for is_list, lines in itertools.groupby(block.splitlines(), lambda line: line.startswith("- ")):
            if is_list:
                blocks.append(_list(_inline(line[2:]) for line in lines))
            else:
                blocks.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "".join(blocks)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _table(heads: Iterable[str], rows: list[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>" if rows else ""
