"""Which extra brings a package that is missing, as the metadata of this package says."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from merge_assets.errors import NotInstalledError

DISTRIBUTION = "merge-assets"

_BROUGHT_BY = {"PIL": "pillow", "graphql": "graphql-core", "pkg_resources": "setuptools"}
"""Modules that are imported by another name than that of the package which an extra lists."""


def require(*modules: str) -> None:
    """Check that modules of extras are there, before work that ends in vain without them.

    Raises:
        NotInstalledError: for the first that is not.
    """
    for module in modules:
        if find_spec(module) is None:
            raise not_installed(ModuleNotFoundError(name=module)) or NotInstalledError(f"{module} is not installed")


def is_installed(*modules: str) -> bool:
    """Whether modules of extras are there, for work that can do without."""
    try:
        require(*modules)
    except (NotInstalledError, ModuleNotFoundError):
        return False
    return True


def not_installed(error: BaseException) -> NotInstalledError | None:
    """The error to show for an import that failed; ``None`` if it is not about a package of an extra.

    Args:
        error: what was raised; what it was raised for is looked at, too, since some libraries wrap such errors.
    """
    for cause in _causes(error):
        if isinstance(cause, ModuleNotFoundError) and cause.name is not None:
            module = cause.name.partition(".")[0]
            package = _BROUGHT_BY.get(module, module)
            extra = _extra(package)
            if extra is not None:
                return NotInstalledError(
                    f"this needs {package}, which is not installed: pip install '{DISTRIBUTION}[{extra}]'"
                )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def _extra(package: str) -> str | None:
    """The first extra that lists a package, in the order in which they are declared."""
    name = canonicalize_name(package)
    if name == DISTRIBUTION:  # some extras are made of others
        return None
    try:
        listed = [
            one for text in requires(DISTRIBUTION) or () if canonicalize_name((one := Requirement(text)).name) == name
        ]
        extras = metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except PackageNotFoundError:  # run from a folder that was never installed
        return None
    return next(
        (str(extra) for extra in extras for one in listed if one.marker and one.marker.evaluate({"extra": extra})), None
    )
