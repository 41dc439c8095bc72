"""All merge methods by name: the files of :mod:`merge_assets.methods.built_in` and what other packages register."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from merge_assets.errors import PlanError, did_you_mean
from merge_assets.methods import built_in
from merge_assets.methods.declaration import Method
from merge_assets.methods.plugin import drop_stale_bytecode, source_digest, source_files

ENTRY_POINT_GROUP = "merge_assets.methods"
"""Entry point group through which other packages add a :class:`Method`."""


@cache
def built_in_methods() -> dict[str, Method]:
    """The methods of this package."""
    files = pkgutil.iter_modules(built_in.__path__, f"{built_in.__name__}.")
    found: list[Method] = [importlib.import_module(file.name).METHOD for file in files]
    return {method.name: method for method in found}


@cache
def methods() -> dict[str, Method]:
    """Every method by name: the built-in ones and those that installed packages register.

    Raises:
        PlanError: if an entry point does not load or is not a :class:`Method`.
    """
    found = dict(built_in_methods())
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        method = _loaded(entry)
        if method.name in found:
            raise PlanError(
                f"the merge method plugin {entry.value!r} is called {method.name!r}, as another one is; rename it"
            )
        found[method.name] = method
    return found


def is_exact(method: Method) -> bool:
    """Whether a GPU gives the bytes of the CPU: all methods of this package do (tests/engine/test_golden.py), and others that
    say so."""
    return method.exact or built_in_methods().get(method.name) is method


def _loaded(entry: EntryPoint) -> Method:
    """A method of another package, with the version that says which code it is."""
    files = source_files(entry.module, entry.dist)
    drop_stale_bytecode(files.values())
    digest = source_digest(entry.value, files)
    try:
        method = entry.load()
    except Exception as error:
        raise PlanError(f"the merge method plugin {entry.value!r} does not import: {error}") from error
    if not isinstance(method, Method):
        raise PlanError(f"the merge method plugin {entry.value!r} is not a merge_assets.methods.Method")
    if not files:
        raise PlanError(
            f"the merge method plugin {entry.value!r} has no files that tell which code it is; install it as plain files"
        )
    if source_digest(entry.value, files) != digest:
        raise PlanError(f"the files of the merge method plugin {entry.value!r} changed while it was loaded; try again")
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module
    return replace(method, version=f"{method.version}, {distribution}, source {digest[:16]}")


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        PlanError: if there is none; the message proposes the nearest name.
    """
    found = built_in_methods().get(name)  # without a search through the installed packages
    if found is not None:
        return found
    known = methods()
    if name in known:
        return known[name]
    raise PlanError(f"unknown method {name!r}{did_you_mean(name, known)}; known: {', '.join(sorted(known))}")
