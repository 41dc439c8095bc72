"""Where people publish a merge config: which text a source has, and what a recipe from it is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from merge_assets.errors import RecipeError
from merge_assets.importing.cleaning import without_passwords
from merge_assets.reference import ModelReference

CARD = "README.md"
CONFIGS = ("mergekit_config.yml", "mergekit_config.yaml", CARD)
"""Files of a repository or folder that may hold its merge config, the first that is there is read."""

MAX_BYTES = 4 << 20
"""Upper bound on a model card or web page in bytes."""

_HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")


@dataclass(frozen=True)
class ConfigSource:
    """A text that may hold a config; ``file`` stands for it in errors, ``name`` is what a recipe from it is called, and
    ``card`` is the model card beside it, where that is another file."""

    text: str
    file: Path
    name: str
    origin: str
    card: str = ""


def local_source(source: str, folders: Sequence[Path]) -> ConfigSource | None:
    """The file, or the file of a folder, that a source is in the first of some folders; ``None`` if it is in none.

    Raises:
        RecipeError: the file cannot be read, or the folder has none that may hold a config.
    """
    path = Path(source).expanduser()
    for candidate in (folder / path for folder in folders):
        if candidate.is_file():
            return _from_file(candidate, path)
        if candidate.is_dir():
            for name in CONFIGS:
                if (candidate / name).is_file():
                    found, card = _from_file(candidate / name, path / name), candidate / CARD
                    if name == CARD or not card.is_file():
                        return found
                    return replace(found, card=_from_file(card, path / CARD).text)
            raise RecipeError(f"the folder has none of {', '.join(CONFIGS)}", file=source)
    return None


def repository_of(source: str, endpoint: str | None) -> tuple[ModelReference, tuple[str, ...]]:
    """The repository on the Hub that a source names or shows, and those of its files that may hold the config.

    Args:
        source: ``org/name[@revision]``, or the address of a page.
        endpoint: address of another Hub, whose pages are read, too.

    Raises:
        RecipeError: it is neither.
    """
    reference, names = _page(source, endpoint) if "://" in source else (_repository(source), CONFIGS)
    if reference is None:
        raise RecipeError(
            f"{without_passwords(source)!r} is neither a file, nor a folder, nor a repository on the Hub "
            "(org/name[@revision]); - reads standard input"
        )
    return reference, names


def source_of(raw: bytes, file: Path, name: str, origin: str | None = None) -> ConfigSource:
    """The source that consists of these bytes.

    Args:
        raw: UTF-8 or UTF-16 text.
        file: stands for it in errors.
        name: made into one that a recipe may have.
        origin: where it was found, in words; left out: ``file``.

    Raises:
        RecipeError: it is too large, or no text.
    """
    if len(raw) > MAX_BYTES:
        raise too_large(file)
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start}); save it as UTF-8", file=file) from None
    allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:100]
    return ConfigSource(text, file, allowed or "imported", origin or str(file))


def too_large(file: Path | str) -> RecipeError:
    """The error for a text of more than :data:`MAX_BYTES`."""
    return RecipeError(f"is larger than {MAX_BYTES >> 20} MiB, which no merge config is", file=file)


def _repository(source: str) -> ModelReference | None:
    try:
        reference = ModelReference.parse(source)
    except ValueError:
        return None
    return reference if reference.looks_like_hub_id and reference.lora is None else None


def _page(address: str, endpoint: str | None) -> tuple[ModelReference | None, tuple[str, ...]]:
    """The repository, and the file if one is shown, of a page on the Hub."""
    url = urlsplit(address)
    hosts = (*_HUB_HOSTS, *([urlsplit(endpoint).netloc] if endpoint else []))
    parts = [unquote(part) for part in url.path.split("/") if part]
    if url.netloc not in hosts or len(parts) < 2:
        raise RecipeError(
            f"{without_passwords(address)}: only models on the Hub are fetched; save the page and import the file"
        )
    revision = parts[3] if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve", "raw") else None
    names = ("/".join(parts[4:]),) if len(parts) > 4 and parts[2] != "tree" else CONFIGS
    return _repository("/".join(parts[:2]) + (f"@{revision}" if revision else "")), names


def _from_file(file: Path, shown: Path) -> ConfigSource:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=shown) from None
    name = file.resolve().parent.name if file.name in CONFIGS else file.stem
    return source_of(raw, shown, name)
