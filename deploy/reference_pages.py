"""The pages docs/api.md and docs/cli.md, made from the OpenAPI document and from the commands."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import typer.main
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from revoker.cli.commands import command

Json = Mapping[str, Any]

API_HEAD: Final = """\
# API

If the extra `docs` is installed, as in the image, `GET /docs` of a running service shows the same
operations with Swagger UI, which can send them. `GET /openapi.json` is the [OpenAPI 3.1
document](../service/revoker/api/openapi.json) without what the settings leave out. It has the types of
all members; this page has what each operation is for, an example, and the errors that it can give.

Callers authenticate with HTTP Basic, with their secret as a Bearer token, with `client_id` and
`client_secret` in a form, or with a client certificate. Operations with a body read JSON or a form,
unless only one is named. Members that are not documented are ignored, and a duplicate member is refused.
[versioning.md](versioning.md) says what may change.

Errors are `{"error": …, "error_description": …}` as in RFC 6749 §5.2; the description is for people and
may change. After 503 and 429, repeat the request when `Retry-After` says so. Operations that use the
store can also answer 500 `server_error`.

*Generated from the types in `service/revoker/api` by `make docs`.*
"""

CLI_HEAD: Final = """\
# Command line

`revoker` reads the configuration that `--config` or `REVOKER_CONFIG` names. The exit status is 0 for
success, 1 if the command could not do its work, and 2 for wrong settings or arguments: one line for each
fault. `serve` with several workers ends with 3 if one cannot start, and an interrupted `import` with 130.

*Generated from `service/revoker/cli` by `make docs`.*
"""


def api_page(document: Json) -> str:
    """A section for each operation, by tag."""
    parts = [API_HEAD]
    for tag in document["tags"]:
        parts.append(f"\n## {tag['name']}\n")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts += _operation(method, path, operation, document)
    return "".join(parts)


def _operation(method: str, path: str, operation: Json, document: Json) -> Iterator[str]:
    scope = operation.get("description", "")
    yield f"\n### `{method.upper()} {path}`\n\n{operation['summary']}.{' ' + scope if scope else ''}\n"
    body = operation.get("requestBody", {}).get("content", {})
    if len(body) == 1:
        yield f"\nThe body is `{next(iter(body))}`.\n"
    parameters = [f"`{one['name']}` ({one['in']})" for one in operation.get("parameters", ())]
    if parameters:
        yield f"\nParameters: {', '.join(parameters)}.\n"
    for content in list(body.values())[:1]:
        yield from _example("Request", content)
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            continue
        if not answer.get("content"):
            headers = ", ".join(f"`{name}`" for name in answer.get("headers", ()))
            yield f"\n{status}: the body is empty{', with the headers ' + headers if headers else ''}.\n"
        for media, content in answer.get("content", {}).items():
            if media == "application/json":
                yield from _example(status, content)
            else:
                yield f"\n{status}: `{media}`.\n"
    errors = [
        f"{status} {', '.join(f'`{code}`' for code in _codes(answer, document))}"
        for status, answer in operation["responses"].items()
        if "$ref" in answer and status != "500"
    ]
    if errors:
        yield f"\nErrors: {'; '.join(errors)}.\n"


def _example(what: str, content: Json) -> Iterator[str]:
    for example in content.get("examples", {}).values():
        text = json.dumps(example["value"], indent=2, ensure_ascii=False)
        yield f"\n{what}, {example['summary']}:\n\n```json\n{text}\n```\n"


def _codes(answer: Json, document: Json) -> list[str]:
    response = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    codes: list[str] = response["content"]["application/json"]["schema"]["properties"]["error"]["enum"]
    return codes


def cli_page() -> str:
    """A section for each command."""
    root = typer.main.get_command(command)
    assert isinstance(root, TyperGroup)  # noqa: S101  # it has several commands
    return CLI_HEAD + "".join(_commands(root, "revoker"))


def _commands(group: TyperGroup, prefix: str) -> Iterator[str]:
    for name, found in group.commands.items():
        full = f"{prefix} {name}"
        if isinstance(found, TyperCommand) or (
            isinstance(found, TyperGroup) and found.invoke_without_command
        ):
            yield from _command(found, full)
        if isinstance(found, TyperGroup):
            yield from _commands(found, full)


def _command(found: TyperCommand | TyperGroup, full: str) -> Iterator[str]:
    arguments = [one for one in found.params if isinstance(one, TyperArgument)]
    names = [_usage(one) for one in arguments]
    usage = " ".join([full, "[OPTIONS]", *names])
    yield f"\n## `{full}`\n\n{_text(found.help)}\n\n```text\n{usage}\n```\n"
    options = [one for one in found.params if isinstance(one, TyperOption) and not one.hidden]
    if options:
        yield "\n| option | meaning |\n| --- | --- |\n"
        for option in options:
            flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
            yield f"| {flags} | {_text(option.help)}{' Required.' if option.required else ''} |\n"


def _usage(argument: TyperArgument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _text(text: str | None) -> str:
    """Help as Markdown: what looks like a command or an option is code, if it is not already."""
    flat = " ".join(inspect.cleandoc(text or "").split())
    return re.sub(r"\b(docs/[\w-]+\.md)\b", lambda found: f"[{found[1]}]({found[1][5:]})", flat).replace(
        "|", "\\|"
    )
