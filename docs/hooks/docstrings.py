"""What mkdocstrings shows of our docstrings, for readers who cannot look at the source beside them.

- The synchronous classes say what they do in a line, and "See `...`" for the rest: it is there.
- Attributes that a class's docstring describes are entries of their own, which links lead to.
- Names are links, also those of errors that a module names but does not import.
- A default that has a name is shown as what it is.
"""

import importlib
import re
from collections.abc import Iterator
from typing import Any

import griffe

_PACKAGE = "icefarm"
_NAMES = re.compile(r"(?<!\[)`([A-Za-z_][\w.]*)(\(.*?\))?`(?!\])")
_SEE = re.compile(r"\s*;?\s*\b[Ss]ee `(Async[\w.]+)`[^.;]*\.")
_WHEN = re.compile(r"^Raises \((.*)\):$", re.MULTILINE)
_Public = dict[str, griffe.Object]


class Docstrings(griffe.Extension):
    """Changes docstrings when the package has been read."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Change each docstring of the library."""
        if pkg.name != _PACKAGE:
            return
        public = {str(name): _target(pkg[str(name)]) for name in pkg.exports or ()}
        for kind in public.values():
            _describe_attributes(kind)
            _make_known(public, kind.module)
        described = [
            (thing, thing.docstring)
            for kind in public.values()
            for thing in _with_members(kind)
            if thing.docstring is not None
        ]
        for thing, docstring in described:
            docstring.value = _WHEN.sub(r"Raises:", docstring.value)
            _show_defaults(thing)
        texts = [_followed(thing, docstring.value, public) for thing, docstring in described]
        for (thing, docstring), text in zip(described, texts, strict=True):
            docstring.value = _linked(thing, text, public)


def _target(thing: griffe.Object | griffe.Alias) -> griffe.Object:
    return thing.final_target if isinstance(thing, griffe.Alias) else thing


def _with_members(kind: griffe.Object) -> Iterator[griffe.Object]:
    yield kind
    if kind.is_class:
        for member in kind.members.values():
            if isinstance(member, griffe.Object) and member.is_public:
                yield member


def _describe_attributes(kind: griffe.Object) -> None:
    """Give each attribute the text that the class has for it."""
    if not kind.is_class or kind.docstring is None:
        return
    before, found, section = kind.docstring.value.partition("\n\nAttributes:\n")
    if not found:
        return
    for entry in re.split(r"\n(?=    \w)", section.rstrip()):
        name, _, text = entry.strip().partition(": ")
        attribute = kind.members.get(name)
        if not isinstance(attribute, griffe.Object):
            raise LookupError(f"the docstring of {kind.path} describes {name}, which is not there")
        attribute.docstring = griffe.Docstring(re.sub(r"\s+", " ", text), parent=attribute)
    kind.docstring.value = before


def _make_known(public: _Public, module: griffe.Module) -> None:
    """Let the docstrings of a module name what it does not import."""
    for name in public.keys() - module.members.keys():
        module.set_member(name, griffe.Alias(name, public[name].path))


def _show_defaults(thing: griffe.Object) -> None:
    functions = [thing.members.get("__init__")] if thing.is_class else [thing]
    for function in functions:
        if not isinstance(function, griffe.Function):
            continue
        module = importlib.import_module(function.module.path)
        for parameter in function.parameters:
            value = getattr(module, str(parameter.default), None)
            if isinstance(value, int | float | str):
                parameter.default = repr(value)


def _followed(thing: griffe.Object, text: str, public: _Public) -> str:
    """With what the asynchronous twin of it has after its first paragraph, which is like its own.

    What refers to something else has a link to it, or to the synchronous twin of that.
    """
    see = _SEE.search(text)
    if see is None:
        return text
    own, after = text[: see.start()].removesuffix("."), text[see.end() :]
    target = _find(see[1], public)
    if target is not None and target.is_class and not thing.is_class:
        target = _member(target, thing.name) or target
    if target is None or target.docstring is None:
        raise LookupError(f"the docstring of {thing.path} refers to {see[1]}, which is not there")
    if _name(target) == f"Async{_name(thing)}":
        _, _, rest = target.docstring.value.partition("\n\n")
        return f"{own}.{after}\n\n{rest}"
    synchronous = not _name(thing).startswith("Async")
    name = _name(target).removeprefix("Async") if synchronous else _name(target)
    return f"{own}. See `{name}`.{after}"


def _name(thing: griffe.Object) -> str:
    """As callers know it: `Client`, or `Client.reserve`."""
    owner = thing.parent
    return f"{owner.name}.{thing.name}" if owner is not None and owner.is_class else thing.name


def _find(name: str, public: _Public) -> griffe.Object | None:
    kind, _, member = name.partition(".")
    found = public.get(kind)
    return _member(found, member) if found is not None and member else found


def _member(kind: griffe.Object, name: str) -> griffe.Object | None:
    member = kind.members.get(name)
    return None if member is None else _target(member)


def _linked(thing: griffe.Object, text: str, public: _Public) -> str:
    """With a link for each name that the reference has."""
    owner = thing if thing.is_class else thing.parent

    def link(name: re.Match[str]) -> str:
        if name[1] == thing.name:
            return name[0]
        if owner is not None and owner.is_class and _has_entry(_member(owner, name[1])):
            return f"[{name[0]}][{_PACKAGE}.{owner.name}.{name[1]}]"
        if _has_entry(_find(name[1], public)):
            return f"[{name[0]}][{_PACKAGE}.{name[1]}]"
        return name[0]

    return _NAMES.sub(link, text)


def _has_entry(thing: griffe.Object | None) -> bool:
    return thing is not None and thing.is_public and thing.has_docstring
