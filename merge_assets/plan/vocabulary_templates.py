"""Chat templates that a recipe can name, written from the prompt formats that the model families document."""

from __future__ import annotations

import re
from collections.abc import Sequence

from merge_assets.errors import did_you_mean
from merge_assets.plan.problems import plan_error
from merge_assets.recipe import Recipe

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_LLAMA3 = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

_MISTRAL = (
    "{{ bos_token }}"
    "{% set system = messages[0]['content'] + '\\n\\n' if messages and messages[0]['role'] == 'system' else '' %}"
    "{% set turns = messages[1:] if system else messages %}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)

_ALPACA = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Response:\\n' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)

_EXAONE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
    "{{ '[|' + message['role'] + '|]' + message['content'] }}"
    "{{ '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
)

TEMPLATES = {"alpaca": _ALPACA, "chatml": _CHATML, "exaone": _EXAONE, "llama3": _LLAMA3, "mistral": _MISTRAL}
"""Templates by the names that recipes give them."""

_SPECIAL = re.compile(r"<\|[^\s|<>']+\|>|\[\|\w+\|\]")


def chosen_template(recipe: Recipe, found: Sequence[str | None], donor: int) -> str | None:
    """The chat template that a recipe asks for; ``None`` leaves the donor's files as they are.

    Args:
        recipe: the recipe.
        found: the template of every merged model.
        donor: position in ``found`` of the model that gives the tokenizer.

    Raises:
        PlanError: for a name that there is none of, or a Jinja template that does not parse.
    """
    asked = recipe.chat_template
    if asked is None:
        return None
    if asked == "auto":
        return _most_common(found, donor)
    if asked in TEMPLATES:
        return TEMPLATES[asked]
    if "{{" in asked or "{%" in asked:
        _check_syntax(recipe, asked)
        return asked
    hint = did_you_mean(asked, [*TEMPLATES, "auto"])
    raise plan_error(
        recipe,
        "chat_template",
        f"unknown template {asked!r}{hint}; known: auto, {', '.join(TEMPLATES)}, or a Jinja template",
    )


def special_tokens(template: str) -> list[str]:
    """What looks like a special token in a template: ``<|im_start|>``, ``[|user|]``."""
    return list(dict.fromkeys(_SPECIAL.findall(template)))


def _most_common(found: Sequence[str | None], donor: int) -> str | None:
    """The template that most models have; of equally common ones the donor's, or else the first."""
    known = [template for template in found if template is not None]
    if not known:
        return None
    most = max(known.count(template) for template in known)
    common = [template for template in known if known.count(template) == most]
    return found[donor] if found[donor] in common else common[0]


def _check_syntax(recipe: Recipe, template: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError

    if "{% generation" in template or "{%- generation" in template:  # a tag that only transformers knows
        return
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        problem = f"line {error.lineno} of the Jinja template: {error.message}"
    except RecursionError:
        problem = "the Jinja template is nested too deeply"
    else:
        return
    raise plan_error(recipe, "chat_template", f"{problem}; correct it")
