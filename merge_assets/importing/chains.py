"""Configs of one page that are made of each other: which config makes what another one names.

A step is known by its ``name:``, or by what stands around it: a heading or line above it, the file that it is said to be, an
arrow, or the folder that a command writes it to. Names on the Hub are taken for steps only where a heading says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from merge_assets.importing.edits import Edits
from merge_assets.importing.labels import CALLED, CardStep, certainty, is_distinct, names, title_of, word_of
from merge_assets.importing.mending import Imported, name_line, sound_recipes
from merge_assets.importing.mentions import write_reference
from merge_assets.recipe.schema import Recipe
from merge_assets.reference import ModelReference
from merge_assets.yamlfile import parse_documents

_FINAL = re.compile(r"\bfinal(?:ly)?\b|\blast step\b", re.I)


_MOST_STEPS = 100
"""Configs of one page that are searched for what makes what; no chain has as many."""


@dataclass(frozen=True)
class _Mention:
    """A model that a step names and that another one may make."""

    step: int
    document: int
    key: str
    part: ModelReference
    lora: bool


@dataclass
class Chain:
    """Which steps are made of which.

    Attributes:
        makers: step -> the steps that it is made of.
        words: step -> what others call it.
        unsure: step -> a sentence for each link that was guessed.
        open: sentences for what names a step that cannot be told.
    """

    makers: dict[int, set[int]] = field(default_factory=dict)
    words: dict[int, str] = field(default_factory=dict)
    unsure: dict[int, list[str]] = field(default_factory=dict)
    open: dict[int, list[str]] = field(default_factory=dict)
    _targets: dict[_Mention, int] = field(default_factory=dict)

    def behind(self, step: int) -> list[int]:
        """A step with all that it is made of, each behind what it is made of."""
        order: dict[int, None] = {}

        def visit(one: int) -> None:
            for maker in sorted(self.makers.get(one, ())):
                if maker not in order:
                    visit(maker)
            order[one] = None

        visit(step)
        return list(order)

    def link(self, mention: _Mention, maker: int) -> bool:
        """Note that a step is made of another one, unless that were a circle."""
        if mention.step in self.behind(maker):
            return False
        self.makers.setdefault(mention.step, set()).add(maker)
        self._targets[mention] = maker
        return True

    def target(self, mention: _Mention) -> int | None:
        return self._targets.get(mention)


def linked(steps: Sequence[CardStep]) -> Chain:
    """Which steps are made of which, as far as names and the words around them tell."""
    chain = Chain()
    if len(steps) > _MOST_STEPS:
        return chain
    unknown: list[_Mention] = []
    for mention in _mentions(steps):
        makers = _makers(mention, steps)
        path = mention.part.path
        if len(makers) == 1 and steps[makers[0]].imported is not None:
            if chain.link(mention, makers[0]):
                chain.words.setdefault(makers[0], word_of(path))
                if mention.part.looks_like_hub_id and not _is_called(steps[makers[0]], path):
                    _say(
                        chain.unsure,
                        mention,
                        f"{path} is taken for the config at line {steps[makers[0]].block.line}, by its last part",
                    )
        elif len(makers) == 1:
            line = steps[makers[0]].block.line
            _say(chain.open, mention, f"{path} is made by the config at line {line}, which cannot be read")
        elif makers:
            at = " and ".join(str(steps[maker].block.line) for maker in makers)
            _say(chain.open, mention, f"{path} may be what the configs at lines {at} make; name it yourself")
        elif not mention.part.looks_like_hub_id or mention.part.path.startswith("."):
            unknown.append(mention)
    _by_elimination(chain, unknown, steps)
    return chain


def with_own_names(step: CardStep, file: Path, name: str) -> CardStep:
    """A step of several documents that name each other by folders (``./intermediates/NAME``), with their names instead."""
    imported = step.imported
    if imported is None or len(imported.recipes) < 2:
        return step
    names_here = {recipe.name for recipe in imported.recipes}
    text, told = imported.text, []
    for mention in _mentions_of(0, step):
        word = word_of(mention.part.path)
        if word in names_here and mention.part.path not in names_here and not mention.part.looks_like_hub_id:
            text = _renamed_mention(text, mention, word)
            told.append(f"{mention.part.path} is {word}")
    if not told:
        return step
    repairs = (*imported.repairs, *_told(told))
    return replace(
        step, imported=replace(imported, text=text, recipes=sound_recipes(text, file, name), repairs=repairs)
    )


def final_step(steps: Sequence[CardStep], chain: Chain, name: str) -> int:
    """The step that nothing else is made of; of several, the one that its heading calls final or by the page's name, then one
    that is made of others, then the last."""
    used = set().union(*chain.makers.values()) if chain.makers else set()
    sinks = [place for place, step in enumerate(steps) if step.imported is not None and place not in used]

    def rank(place: int) -> tuple[bool, bool, int]:
        said = title_of(steps[place])
        return bool(_FINAL.search(said) or names(name, said)), bool(chain.makers.get(place)), place

    return max(sinks, key=rank)


def joined(steps: Sequence[CardStep], chain: Chain, final: int, name: str, file: Path) -> Imported:
    """One config of several documents: a step with all that it is made of, which it names by their names here.

    Raises:
        RecipeError: if they do not go together.
    """
    order = chain.behind(final)
    called: dict[int, str] = {}
    for place in order:
        own = steps[place].names
        last = name if place == final else f"{name}-{_slug(chain.words.get(place, ''))}"[:90]
        called[place] = own[-1] if own else last if last not in called.values() else f"{last}-{place + 1}"
    texts, notes = [], []
    for place in order:
        imported = steps[place].imported
        assert imported is not None
        text = imported.text
        for mention in _mentions_of(place, steps[place]):
            maker = chain.target(mention)
            if maker is not None and called[maker] != mention.part.path:
                text = _renamed_mention(text, mention, called[maker])
                notes.append(f"{mention.part.path} is {called[maker]}, the config at line {steps[maker].block.line}")
        texts.append(text if steps[place].names else f"{name_line(called[place])}\n{text}")
    whole = "---\n".join(texts)
    parts = [found for place in order if (found := steps[place].imported) is not None]
    return Imported(
        text=whole,
        recipes=sound_recipes(whole, file, name),
        repairs=tuple(dict.fromkeys([*(repair for part in parts for repair in part.repairs), *_told(notes)])),
        choices=(
            *(choice for part in parts for choice in part.choices),
            *(said for place in order for said in chain.unsure.get(place, ())),
        ),
        place="",
        notices=tuple(dict.fromkeys(notice for part in parts for notice in part.notices)),
    )


def _told(notes: Sequence[str]) -> list[str]:
    return [f"names of steps ({'; '.join(dict.fromkeys(notes))})"] if notes else []


def _say(where: dict[int, list[str]], mention: _Mention, sentence: str) -> None:
    if sentence not in where.setdefault(mention.step, []):
        where[mention.step].append(sentence)


def _by_elimination(chain: Chain, unknown: Sequence[_Mention], steps: Sequence[CardStep]) -> None:
    """One folder that nobody knows and one config above that nobody uses belong together; that is said."""
    words = {word_of(mention.part.path) for mention in unknown}
    if len(words) != 1 or any(step.imported is None for step in steps):
        return
    used = set().union(*chain.makers.values()) if chain.makers else set()
    first = min(mention.step for mention in unknown)
    free = [place for place in range(first) if place not in used]
    if len(free) != 1:
        return
    for mention in unknown:
        if chain.link(mention, free[0]):
            chain.words.setdefault(free[0], word_of(mention.part.path))
            line = steps[free[0]].block.line
            _say(
                chain.unsure,
                mention,
                f"{mention.part.path} is taken for the config at line {line}, as nothing else names that one",
            )


def _mentions(steps: Sequence[CardStep]) -> Iterator[_Mention]:
    for place, step in enumerate(steps):
        yield from _mentions_of(place, step)


def _mentions_of(place: int, step: CardStep) -> Iterator[_Mention]:
    own = set(step.names)
    for document, recipe in enumerate(step.imported.recipes if step.imported else ()):
        for key, reference in recipe.mentions():
            for part, lora in ((reference.model, False), (reference.lora, True)):
                if part is not None and not part.is_url and part.path not in own and word_of(part.path):
                    yield _Mention(place, document, key, part, lora)


def _makers(mention: _Mention, steps: Sequence[CardStep]) -> list[int]:
    """The steps that most likely make what is named; several where that is open."""
    path = mention.part.path
    word = word_of(path)
    scores: dict[int, int] = {}
    for place, step in enumerate(steps):
        if place == mention.step:
            continue
        if path in step.names or (not mention.part.looks_like_hub_id and word in step.names):
            scores[place] = 1000
        elif not _is_made_of(step, word):
            sure = certainty(step, path if mention.part.looks_like_hub_id else word)
            if mention.part.looks_like_hub_id and not sure and is_distinct(word):
                sure = certainty(step, word)
            if sure >= (CALLED if mention.part.looks_like_hub_id else 1):
                scores[place] = sure
    best = max(scores.values(), default=0)
    return [place for place, sure in scores.items() if sure == best]


def _is_made_of(step: CardStep, word: str) -> bool:
    """Whether a step names something itself: then it does not make it."""
    recipes: Sequence[Recipe] = step.imported.recipes if step.imported else ()
    return any(
        word_of(part.path).lower() == word.lower()
        for recipe in recipes
        for reference in recipe.references()
        for part in (reference.model, reference.lora)
        if part is not None
    )


def _is_called(step: CardStep, path: str) -> bool:
    return path in step.names or certainty(step, path) > 0


def _slug(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-._") or "step"


def _renamed_mention(text: str, mention: _Mention, name: str) -> str:
    """The text with the name of a recipe where a model was named."""
    document = parse_documents(text, Path())[mention.document]

    def renamed(whole: ModelReference) -> ModelReference:
        return replace(whole, lora=ModelReference(name)) if mention.lora else ModelReference(name, lora=whole.lora)

    edits = Edits(text)
    write_reference(edits, document, mention.key, renamed)
    return edits.done()
