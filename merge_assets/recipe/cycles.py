"""Cycles among things that lead to each other by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping


def without_ends(ways: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What is left when those that no way leads on from are taken away, again and again."""
    back: dict[str, list[str]] = {name: [] for name in ways}
    for name, on in ways.items():
        for other in on:
            if other in back:
                back[other].append(name)
    left = {name: sum(other in ways for other in on) for name, on in ways.items()}
    ends = [name for name, count in left.items() if not count]
    while ends:
        for name in back[ends.pop()]:
            left[name] -= 1
            if not left[name]:
                ends.append(name)
    return {name: ways[name] for name, count in left.items() if count}


def cycle_through(start: str, parents: Mapping[str, list[str]]) -> list[str]:
    """Shortest way from ``start`` up its parents back to itself, both ends included; empty if there is none."""
    child: dict[str, str] = {}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        for parent in parents.get(name, ()):
            if parent not in child:
                child[parent] = name
                queue.append(parent)
        if start in child:
            trail = [start]
            while len(trail) == 1 or trail[-1] != start:
                trail.append(child[trail[-1]])
            return trail[::-1]
    return []
