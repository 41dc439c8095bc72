"""Hypothesis strategies for the content of valid recipes, as plain data."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Data = dict[str, Any]

references = st.sampled_from(["org/a", "org/b@main", "./models/c", "org/d+org/lora@v1", "inner"])
_long_references = st.fixed_dictionaries(
    {"model": st.fixed_dictionaries({"path": references.filter(lambda r: "+" not in r and "@" not in r)})},
    optional={"lora": st.just({"path": "org/lora", "revision": "v1"}), "override_architecture": st.just("X")},
)
models = references | _long_references
numbers = st.integers(-3, 3) | st.sampled_from([0.5, 1e-05, -0.25, 1.5])
gradients = st.lists(numbers, min_size=1, max_size=4)
plain_settings = st.booleans() | numbers | gradients | st.just("paper")
conditionals = st.fixed_dictionaries(
    {"value": plain_settings}, optional={"filter": st.sampled_from(["self_attn", "mlp", "*", "o_proj"])}
)
settings = plain_settings | conditionals | st.lists(conditionals, min_size=1, max_size=3)

INPUT_PARAMETERS = ("weight", "density", "scale", "gamma")
WHOLE_PARAMETERS = ("t", "normalize", "lambda", "int8_mask", "rescale")


def parameters(names: tuple[str, ...]) -> st.SearchStrategy[Data]:
    return st.dictionaries(st.sampled_from(names), settings, min_size=1, max_size=3)


@st.composite
def shuffled(draw: st.DrawFn, content: Data) -> Data:
    """A mapping in another order."""
    return {key: content[key] for key in draw(st.permutations(list(content)))}


@st.composite
def mapping(draw: st.DrawFn, required: dict[str, Any], optional: dict[str, Any] | None = None) -> Data:
    """A mapping of drawn values, its keys in any order."""
    content = draw(st.fixed_dictionaries(required, optional=optional or {}))
    return draw(shuffled(content))


entries = mapping({"model": models}, {"parameters": parameters(INPUT_PARAMETERS)})


@st.composite
def slices(draw: st.DrawFn, *, own_settings: bool) -> Data:
    """One slice; with ``own_settings``, it may have parameters and a base of its own."""
    length = draw(st.integers(1, 4))
    starts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    sources = [
        draw(
            mapping(
                {"model": models, "layer_range": st.just([start, start + length])},
                {"parameters": parameters(INPUT_PARAMETERS)},
            )
        )
        for start in starts
    ]
    extra = {"parameters": parameters(INPUT_PARAMETERS + WHOLE_PARAMETERS), "base_model": references}
    return draw(mapping({"sources": st.just(sources)}, extra if own_settings else {}))


@st.composite
def bodies(draw: st.DrawFn, *, own_settings: bool) -> Data:
    kind = draw(st.sampled_from(["models", "slices", "modules", "depth_upscale", "prune_layers"]))
    if kind == "depth_upscale":
        return {kind: draw(mapping({"model": models, "overlap": st.just(2)}, {"block": st.just(1)}))}
    if kind == "prune_layers":
        protect = mapping({}, {"first": st.just(1), "last": st.just(2)})
        remove = st.just([3, 5]) if draw(st.booleans()) else st.just({"lowest": 3}) | st.just(4)
        by = "list" if isinstance(draw(st.shared(remove, key="remove")), list) else "reverse_order"
        return {
            kind: draw(
                mapping(
                    {"model": models, "by": st.just(by), "remove": st.shared(remove, key="remove"), "protect": protect}
                )
            )
        }
    lists = {
        "models": st.lists(entries, min_size=1, max_size=3),
        "slices": st.lists(slices(own_settings=own_settings), min_size=1, max_size=3),
    }
    if kind != "modules":
        return {kind: draw(lists[kind])}
    module = st.sampled_from(["models", "slices"]).flatmap(
        lambda key: mapping({key: lists[key]}, {"parameters": parameters(WHOLE_PARAMETERS)} if own_settings else {})
    )
    return {kind: draw(st.dictionaries(st.sampled_from(["text_decoder", "vision_tower"]), module, min_size=1))}


_tokens = st.dictionaries(
    st.sampled_from(["<s>", "<|im_start|>", "[PAD]", "a:b", "no", "source", "models"]),
    mapping(
        {},
        {
            "source": references
            | mapping({"kind": st.just("zero")})
            | mapping({"kind": st.just("model_token"), "model": models, "token_id": st.just(4)}),
            "force": st.booleans(),
        },
    ),
    min_size=1,
)
_extras = {
    "dtype": st.sampled_from(["bfloat16", "torch.float16"]),
    "out_dtype": st.just("float32"),
    "base_model": models,
    "parameters": parameters(INPUT_PARAMETERS + WHOLE_PARAMETERS),
    "tokenizer": mapping(
        {"source": st.sampled_from(["union", "base"])}, {"tokens": _tokens, "pad_to_multiple_of": st.just(8)}
    ),
    "chat_template": st.sampled_from(["auto", "{{ a }}: b\n\n{% if x %}\nyes: no\n{% endif %}\n"]),
    "description": st.sampled_from(["one line", "with: a colon", "- a dash", "# a hash", "it's “so”"]),
    "group": st.just("pruning"),
    "tags": st.dictionaries(
        st.sampled_from(["family", "size", "device", "seed"]), st.sampled_from(["yi-34b", "x"]), min_size=1
    ),
    "owners": st.lists(st.sampled_from(["team:merges", "a@b.org"]), min_size=1, max_size=2),
    "seed": st.integers(0, 9),
    "evaluate": st.lists(st.sampled_from(["demo", "open-llm-leaderboard-v1"]), max_size=2),
    "publish": mapping({"repo_id": st.just("me/mine")}, {"private": st.booleans()}),
    "published": st.lists(
        mapping({"source": st.just("their card"), "values": st.just({"arc_challenge": 59.5, "average": 60})}),
        min_size=1,
        max_size=2,
    ),
    "schedule": st.just("0 3 * * *"),
    "freshness": st.sampled_from(["7d", "12h"]),
    "keep": st.sampled_from(["last 5", ["last 2"]]),
    "device": st.just("cpu"),
    "name": st.just("given"),
}
# Keys and values that may as well be those of what stands around them.
_doubtful = {
    "tokenizer": mapping({"source": references}, {"tokens": _tokens}),
    "tags": st.dictionaries(st.sampled_from(["name", "group", "dtype", "device"]), st.just("cpu"), min_size=1),
}


@st.composite
def recipes(draw: st.DrawFn, *, ambiguous: bool = True) -> Data:
    """A valid recipe.

    Without ``ambiguous``, keys stand where people mostly write them: ``merge_method`` behind the body, settings of slices
    left out, so that the indentation follows from the lines.
    """
    body = draw(bodies(own_settings=ambiguous))
    template = body.keys() & {"depth_upscale", "prune_layers"}
    method = {"merge_method": "passthrough" if template else draw(st.sampled_from(["linear", "slerp", "ties"]))}
    doubtful = {key: _extras[key] | strategy for key, strategy in _doubtful.items()} if ambiguous else {}
    extras = draw(st.fixed_dictionaries({}, optional=_extras | doubtful))
    if ambiguous:
        return draw(shuffled({**body, **method, **extras}))
    return {**body, **method, **draw(shuffled(extras))}
