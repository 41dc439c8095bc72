#!/usr/bin/env python3
"""Read the three text domains of the demo from Debian packages and write the demo suite's data.

The domains:

* ``scripture``: the King James Bible (package ``bible-kjv-text``, read through the command ``bible`` of ``bible-kjv``),
  a document per chapter.
* ``manual``: the reStructuredText sources of the Python 3.11 documentation (``python3.11-doc``), a document per file.
* ``glosses``: WordNet 3.0's glosses (``wordnet-base``), a document per sixteen neighbouring synsets.

A document is held out when a digest of its name says so; the training script never sees it. Training text is read from
the packages each time and never written. What this script writes to ``suites/tasks/data/`` comes from held-out
documents only:

* ``<domain>.jsonl``: many short passages, of 100 to 200 characters, for bits per byte: what can be told of two models grows
  with the number of passages, and the time with the characters;
* ``cloze_<domain>.jsonl`` (of the two domains with a fine-tune): a context and four continuations, the true one and
  three with two neighbouring words exchanged;
* ``next_word_<domain>.jsonl`` (likewise): a context that stops before a word, and that word; the word is one that
  the training text mostly has after the two words before it.

Install the packages first: ``apt-get install bible-kjv bible-kjv-text python3.11-doc wordnet-base``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

MANUAL_SOURCES = Path("/usr/share/doc/python3.11/html/_sources")
WORDNET = Path("/usr/share/wordnet")
T = TypeVar("T")

SUITE_DATA = Path(__file__).resolve().parent.parent / "suites" / "tasks" / "data"

MANUAL_FOLDERS = ("library", "reference", "tutorial", "howto", "faq", "using", "extending", "c-api")
SYNSETS_PER_DOCUMENT = 16
SHORT_CHARACTERS = 100
SHORT_PASSAGES = {"glosses": 80, "scripture": 240, "manual": 240}
PASSAGE_CHARACTERS = 500
CLOZE_ITEMS = 36
NEXT_WORD_ITEMS = 30
CONTEXT_CHARACTERS = 160
IDIOM_COUNT = 20
IDIOM_SHARE = 0.6
PLACES_PER_DOCUMENT = 7
SEED = 20


@dataclass(frozen=True)
class Document:
    """One piece of text that is either trained on or held out as a whole."""

    domain: str
    name: str
    text: str


def read_scripture() -> Iterator[Document]:
    """Yield the chapters of the King James Bible, a verse a line, without verse numbers."""
    listing = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    chapters: dict[str, list[str]] = {}
    for line in listing.splitlines():
        reference, _, verse = line.partition(" ")
        if verse:
            chapters.setdefault(reference.partition(":")[0], []).append(verse.strip())
    for name, verses in chapters.items():
        yield Document("scripture", name, "\n".join(verses) + "\n")


def read_manual() -> Iterator[Document]:
    """Yield the files of the Python documentation that hold prose."""
    for folder in MANUAL_FOLDERS:
        for file in sorted((MANUAL_SOURCES / folder).rglob("*.rst.txt")):
            text = file.read_text(encoding="utf-8")
            name = file.relative_to(MANUAL_SOURCES).as_posix().removesuffix(".rst.txt")
            yield Document("manual", name, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def read_glosses() -> Iterator[Document]:
    """Yield WordNet's synsets as ``word, word: gloss`` lines, neighbouring synsets together."""
    for part in ("noun", "verb", "adj", "adv"):
        lines: list[str] = []
        for line in (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence at the head of each file
                continue
            fields, _, gloss = line.partition(" | ")
            columns = fields.split()
            words = [columns[4 + 2 * i] for i in range(int(columns[3], 16))]
            plain = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words]
            lines.append(f"{', '.join(plain)}: {gloss.strip()}")
        for start in range(0, len(lines), SYNSETS_PER_DOCUMENT):
            yield Document("glosses", f"{part}-{start}", "\n".join(lines[start : start + SYNSETS_PER_DOCUMENT]) + "\n")


READERS: dict[str, Callable[[], Iterator[Document]]] = {
    "glosses": read_glosses,
    "scripture": read_scripture,
    "manual": read_manual,
}
FINE_TUNED = ("scripture", "manual")
HELD_OUT_OF_1000 = {"glosses": 10, "scripture": 30, "manual": 60}


def is_held_out(document: Document) -> bool:
    """Whether a document is kept from training; a function of its name, so the same on every machine."""
    digest = hashlib.sha256(f"{document.domain}/{document.name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 1000 < HELD_OUT_OF_1000[document.domain]


def load_domain(domain: str) -> tuple[list[Document], list[Document]]:
    """Read one domain.

    Returns:
        The documents to train on and the held-out ones.

    Raises:
        SystemExit: a Debian package is missing.
    """
    try:
        documents = list(READERS[domain]())
    except FileNotFoundError as error:
        sys.exit(
            f"{error.filename}: not found. Install the texts: "
            "apt-get install bible-kjv bible-kjv-text python3.11-doc wordnet-base"
        )
    if not documents:
        sys.exit(f"no text found for the domain {domain}: is its Debian package complete?")
    held_out = [document for document in documents if is_held_out(document)]
    return [document for document in documents if not is_held_out(document)], held_out


def passages(document: Document, size: int = PASSAGE_CHARACTERS) -> Iterator[str]:
    """Cut a document at line ends into passages of at least ``size`` characters; the rest at the end is dropped."""
    passage = ""
    for line in document.text.splitlines(keepends=True):
        passage += line
        if len(passage) >= size:
            yield passage.strip("\n")
            passage = ""


def sample(population: list[T], size: int, generator: random.Random) -> list[T]:
    """Draw ``size`` members without replacement, or all of them in random order where there are fewer."""
    return generator.sample(population, min(size, len(population)))


def short_items(held_out: list[Document], count: int, generator: random.Random) -> list[dict[str, object]]:
    """Sample ``count`` short passages of all held-out documents of a domain, from each as many as it takes."""
    share = -(-2 * count // len(held_out))
    everything = [
        {"source": document.name, "text": passage}
        for document in held_out
        for passage in sample(list(passages(document, SHORT_CHARACTERS)), share, generator)
        if len(passage) < 2 * SHORT_CHARACTERS
    ]
    return sample(everything, count, generator)


def split_points(passage: str) -> list[int]:
    """Return the offsets of the spaces at which a passage can be split into context and continuation."""
    return [m.start() for m in re.finditer(r"(?<=[a-z,;]) (?=[a-z])", passage) if 150 <= m.start() <= len(passage) - 80]


def cut_context(passage: str, offset: int, size: int = CONTEXT_CHARACTERS) -> str:
    """Return about ``size`` characters before ``offset``, starting at a word."""
    start = max(0, offset - size)
    return passage[start:offset] if start == 0 else passage[start:offset].partition(" ")[2]


def continuation(passage: str, offset: int, size: int = 60) -> str:
    """Return the words after the space at ``offset``, about ``size`` characters and on one line if it can be."""
    text = passage[offset : offset + size]
    return " " + " ".join(text.rpartition(" ")[0].split())


def swaps(text: str) -> list[str]:
    """Return the texts that differ from ``text`` in the order of two neighbouring words."""
    words = text.split()
    swapped = [[*words[:i], words[i + 1], words[i], *words[i + 2 :]] for i in range(len(words) - 1)]
    return sorted({" " + " ".join(order) for order in swapped} - {text})


def cloze_items(held_out: list[Document], generator: random.Random) -> list[dict[str, object]]:
    """Build four-choice items: the true continuation and three with two neighbouring words exchanged."""
    places = [
        (document.name, passage, offset, swapped)
        for document in held_out
        for passage in sample(list(passages(document)), PLACES_PER_DOCUMENT, generator)
        if (points := split_points(passage))
        and len(swapped := swaps(continuation(passage, offset := generator.choice(points)))) >= 3
    ]
    items: list[dict[str, object]] = []
    for name, passage, offset, swapped in sample(places, CLOZE_ITEMS, generator):
        choices = generator.sample(swapped, 3)
        answer = generator.randrange(4)
        choices.insert(answer, continuation(passage, offset))
        items.append({"source": name, "context": cut_context(passage, offset), "choices": choices, "answer": answer})
    return items


def idioms(training: list[Document]) -> dict[tuple[str, str], str]:
    """Find word pairs of the training text that are mostly followed by one word, with that word."""
    followers: dict[tuple[str, str], Counter[str]] = {}
    for document in training:
        words = document.text.split()
        for first, second, third in zip(words, words[1:], words[2:], strict=False):
            followers.setdefault((first, second), Counter())[third.rstrip(",;:.")] += 1
    found = {}
    for pair, counts in followers.items():
        word, count = counts.most_common(1)[0]
        if counts.total() >= IDIOM_COUNT and count >= IDIOM_SHARE * counts.total():
            found[pair] = word
    return found


def next_word_items(
    training: list[Document], held_out: list[Document], generator: random.Random
) -> list[dict[str, object]]:
    """Build completion items: a context that ends in an idiom of the domain, and the word that completes it."""
    known = idioms(training)
    places = []
    for document in held_out:
        for passage in passages(document):
            for match in re.finditer(r"(?<=\S) ([A-Za-z]{3,10})(?=[ ,;:.])", passage):
                before = tuple(passage[: match.start()].split()[-2:])
                if match.start() >= CONTEXT_CHARACTERS and known.get(before) == match.group(1):
                    places.append((document.name, passage, match))
    return [
        {"source": name, "context": cut_context(passage, word.start()), "word": word.group(1)}
        for name, passage, word in sample(places, NEXT_WORD_ITEMS, generator)
    ]


def write_jsonl(path: Path, items: list[dict[str, object]]) -> None:
    """Write one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    print(f"{path.name}: {len(items)} items, {path.stat().st_size} bytes")


def main() -> None:
    """Write the data of the demo suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SUITE_DATA, help="folder to write to (default: %(default)s)")
    out: Path = parser.parse_args().out
    for domain in READERS:
        training, held_out = load_domain(domain)
        size = sum(len(document.text) for document in training)
        kept = sum(len(document.text) for document in held_out)
        print(f"{domain}: {len(training)} documents ({size} characters) to train on, {len(held_out)} ({kept}) held out")
        generator = random.Random(f"{SEED}-{domain}")
        write_jsonl(
            out / f"{domain}.jsonl",
            short_items(held_out, SHORT_PASSAGES[domain], random.Random(f"{SEED}-{domain}-short")),
        )
        if domain in FINE_TUNED:
            write_jsonl(out / f"cloze_{domain}.jsonl", cloze_items(held_out, generator))
            write_jsonl(out / f"next_word_{domain}.jsonl", next_word_items(training, held_out, generator))


if __name__ == "__main__":
    main()
