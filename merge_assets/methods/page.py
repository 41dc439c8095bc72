"""The table of ``docs/methods.md``, generated from the declarations of the methods.

``python -m merge_assets.methods.page`` rewrites the table of the page in place. The text around it is written by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

from merge_assets.methods.declaration import Method, Parameter
from merge_assets.methods.registry import built_in_methods

PAGE = Path("docs/methods.md")

_BLOCK = re.compile(r"(<!-- methods -->\n).*?(<!-- end of methods -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with its table as the declarations have it now; it stands between ``<!-- methods -->`` and its end."""
    return _BLOCK.sub(lambda match: match[1] + method_table() + match[2], page)


def method_table() -> str:
    """Markdown table of the methods of this package; those of plugins are not in it."""
    rows = ["| method | what it does | models | parameters | source |", "|---|---|---|---|---|"]
    for method in built_in_methods().values():
        parameters = "<br>".join(map(_parameter, method.parameters)) or "–"
        rows.append(
            f"| `{method.name}` | {method.summary} | {_inputs(method)} | {parameters} | {_source(method.paper)} |"
        )
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


def _source(paper: str) -> str:
    if not paper:
        return ""
    return f"[{paper}](https://arxiv.org/abs/{paper})" if re.fullmatch(r"\d{4}\.\d{5}", paper) else f"<{paper}>"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
