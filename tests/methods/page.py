"""The tables of ``docs/methods.md``, generated from the declarations of the methods.

``python -m tests.methods.page`` rewrites the tables of the page in place. The text around it is written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.registry import built_in_methods

PAGE = Path("docs/methods.md")

_BLOCK = re.compile(r"(<!-- (?P<table>methods|parameters) -->\n).*?(<!-- end of (?P=table) -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with its tables as the declarations have them now.

    They stand between ``<!-- methods -->`` or ``<!-- parameters -->`` and its end.
    """
    tables = {"methods": method_table, "parameters": parameter_table}
    return _BLOCK.sub(lambda match: match[1] + tables[match["table"]]() + match[3], page)


def method_table() -> str:
    """Markdown table of the methods of this package; those of plugins are not in it."""
    rows = ["| method | what it does | models | parameters | source |", "|---|---|---|---|---|"]
    for method in built_in_methods().values():
        parameters = "<br>".join(map(_parameter, method.parameters)) or "–"
        rows.append(
            f"| `{method.name}` | {method.summary} | {_inputs(method)} | {parameters} | {_source(method.paper)} |"
        )
    return "\n".join(rows) + "\n"


def parameter_table() -> str:
    """Markdown table of what the parameters of these methods mean; what means the same has one row."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for method in built_in_methods().values():
        for parameter in method.parameters:
            found.setdefault((parameter.name, parameter.meaning, _values(parameter)), []).append(f"`{method.name}`")
    rows = ["| parameter | meaning | values | methods |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {meaning} | {values} | {', '.join(of)} |"
        for (name, meaning, values), of in sorted(found.items())
    ]
    return "\n".join(rows) + "\n"


def _inputs(method: Method) -> str:
    if method.most is None:
        count = f"{method.least} or more"
    elif method.most == method.least:
        count = str(method.least)
    else:
        count = f"{method.least} to {method.most}"
    if method.needs_base:
        return f"{count} and a base"
    return f"{count}, with or without a base" if method.takes_base else count


def _parameter(parameter: Parameter) -> str:
    values = [f"`{word}`" for word in parameter.words]
    if parameter.required:
        default = "**required**"
    elif parameter.default is None:
        default = "none"
    elif parameter.boolean:
        default = f"`{str(parameter.default).lower()}`"
    else:
        default = f"`{parameter.default:g}`"
    also = f", or {' or '.join(values)}" if values else ""
    return f"`{parameter.name}`{' (per model)' if parameter.per_model else ''}: {default}{also}"


def _values(parameter: Parameter) -> str:
    low, high = parameter.at_least, parameter.at_most
    if parameter.boolean:
        return ", ".join(f"`{word}`" for word in ("true", "false", *parameter.words))
    if low is None:
        kind = "any number" if high is None else f"{high:g} or less"
    else:
        kind = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
    return ", ".join((kind, *(f"`{word}`" for word in parameter.words)))


def _source(paper: str) -> str:
    if not paper:
        return ""
    return f"[{paper}](https://arxiv.org/abs/{paper})" if re.fullmatch(r"\d{4}\.\d{5}", paper) else f"<{paper}>"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
