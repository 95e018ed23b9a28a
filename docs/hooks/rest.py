"""Writes the reference of the REST API from its OpenAPI document."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from icefarm_control.web import api, api_actions, views

PAGE = "reference/rest.md"
Schema = dict[str, Any]
# Others are messages of the contract, which has a page of its own.
_OURS = {
    name
    for module in (views, api, api_actions)
    for name, kind in vars(module).items()
    if getattr(kind, "__module__", "") == module.__name__
}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the requests and what they answer where the page has a comment for them."""
    if page.file.src_uri != PAGE:
        return markdown
    document = describe()
    parts: dict[str, Callable[[Schema], str]] = {
        "reading": lambda it: _requests(it, "get"),
        "acting": lambda it: _requests(it, "post"),
        "answers": _answers,
    }
    for name, write in parts.items():
        mark = f"<!-- {name} -->"
        if mark not in markdown:
            raise PluginError(f"{PAGE} has no {mark}")
        markdown = markdown.replace(mark, write(document))
    return markdown


def describe() -> Schema:
    """The OpenAPI document, as control serves it."""
    app = FastAPI()
    app.include_router(api.router)
    app.include_router(api_actions.router)
    return app.openapi()


def _requests(document: Schema, method: str) -> str:
    lines = ["| request | what it does | takes | answer |", "|---|---|---|---|"]
    for path, methods in document["paths"].items():
        if method not in methods:
            continue
        request = methods[method]
        answer = request["responses"]["200"]["content"]["application/json"]["schema"]
        cells = (
            f"`{method.upper()} {path}`",
            request["description"],
            _takes(request),
            _type(answer),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _takes(request: Schema) -> str:
    body = request.get("requestBody")
    if body is not None:
        return _type(body["content"]["application/json"]["schema"])
    return ", ".join(
        f"`{each['name']}`" for each in request.get("parameters", ()) if each["in"] == "query"
    )


def _answers(document: Schema) -> str:
    schemas: dict[str, Schema] = document["components"]["schemas"]
    parts = []
    for name, schema in schemas.items():
        if name not in _OURS:
            continue
        lines = [f"### {name} {{ #{name} }}", "", schema["description"], ""]
        lines += ["| field | type |", "|---|---|"]
        lines += [f"| `{field}` | {_type(kind)} |" for field, kind in schema["properties"].items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _type(schema: Schema) -> str:
    """A type in words, with links to what has fields."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}]({'' if name in _OURS else 'topics.md'}#{name})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema['items'])}"
        case "null":
            return "null"
        case "string" if schema.get("format") == "date-time":
            return "time"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_type(schema['additionalProperties'])}"
        case str() as plain:
            return plain
    raise PluginError(f"no words for {schema}")
