"""Contract: templates expand to the published layer orders, and pruning takes the layers that the figures say."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.errors import RecipeError
from merge_assets.recipe import (
    DepthUpscale,
    LayerFigure,
    PruneLayers,
    Slice,
    expand_depth_upscale,
    expand_prune_layers,
    select_layers,
)


def ranges(slices: tuple[Slice, ...]) -> list[list[int]]:
    return [list(part.sources[0].layer_range) for part in slices]


def layers(slices: tuple[Slice, ...]) -> list[int]:
    return [layer for start, end in ranges(slices) for layer in range(start, end)]


def upscale(overlap: int, block: int | None = None) -> DepthUpscale:
    return DepthUpscale(model="m", overlap=overlap, block=block)


def test_published_orders_of_solar_and_its_interlocked_forms():
    assert ranges(expand_depth_upscale(upscale(8), 32)) == [[0, 24], [8, 32]]
    assert ranges(expand_depth_upscale(upscale(8, 8), 32)) == [[0, 16], [8, 24], [16, 32]]
    single = ranges(expand_depth_upscale(upscale(8, 1), 32))
    assert single[:4] == [[0, 1], [8, 9], [1, 2], [9, 10]] and single[-2:] == [[23, 24], [31, 32]]
    assert len(single) == 48
    in_blocks = layers(expand_depth_upscale(upscale(8, 8), 32))
    blocks = [(0, 7), (8, 15), (8, 15), (16, 23), (16, 23), (24, 31)]
    assert in_blocks == [layer for first, last in blocks for layer in range(first, last + 1)]


@settings(deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))), st.integers(1, 70))
def test_depth_upscaling_interleaves_the_two_copies(sizes, block):
    """Oracle: the definition by blocks, written out as lists."""
    count, overlap = sizes
    copy_a = list(range(count - overlap))
    copy_b = list(range(overlap, count))
    expected: list[int] = []
    for start in range(0, len(copy_a), block):
        expected += copy_a[start : start + block] + copy_b[start : start + block]
    slices = expand_depth_upscale(upscale(overlap, block), count)
    assert layers(slices) == expected
    assert layers(expand_depth_upscale(upscale(overlap), count)) == copy_a + copy_b
    assert all(left[1] != right[0] for left, right in zip(ranges(slices), ranges(slices)[1:], strict=False))


@pytest.mark.parametrize("overlap", [32, 40])
def test_an_overlap_of_all_layers_is_refused(overlap):
    with pytest.raises(RecipeError, match=r"depth_upscale.overlap: an overlap of \d+ leaves nothing of the 32 layers"):
        expand_depth_upscale(upscale(overlap), 32)


# -- pruning ----------------------------------------------------------------------------------------------------------


def figures(*values: float, margins: list[float] | None = None) -> list[LayerFigure]:
    """One figure per value; infinite values have margins above 1."""
    margins = margins or [1.5 if math.isinf(value) else 0.5 for value in values]
    return [
        LayerFigure(layer=i, value=v, infinite=math.isinf(v), margin=m, tensor=f"model.layers.{i}.self_attn.v_proj")
        for i, (v, m) in enumerate(zip(values, margins, strict=True))
    ]


def prune(**settings) -> PruneLayers:
    needs = {"tensor": "self_attn.v_proj"} if settings["by"] in ("snr", "margin") else {}
    if settings["by"] in ("block_influence", "angular_distance", "perplexity"):
        needs = {"text": "text.txt"}
    return PruneLayers(model="m", **needs, **settings)


INF = math.inf


@pytest.mark.parametrize(
    ("settings", "rows", "expected"),
    [
        ({"by": "snr", "remove": "infinite"}, figures(3, INF, 2, INF, 9), (1, 3)),
        (
            {"by": "snr", "remove": "infinite", "at_most": 2},
            figures(INF, INF, INF, 1, margins=[1.1, 1.9, 1.5, 0.2]),
            (1, 2),
        ),
        (
            {"by": "snr", "remove": "infinite", "protect": {"first": 2, "last": 1}},
            figures(INF, INF, INF, INF, INF),
            (2, 3),
        ),
        ({"by": "snr", "remove": 3}, figures(5, INF, 2, INF, 9), (1, 3, 4)),
        ({"by": "snr", "remove": 1}, figures(5, INF, 2, INF, 9, margins=[0.1, 1.2, 0.1, 1.3, 0.9]), (3,)),
        ({"by": "snr", "remove": {"lowest": 2}}, figures(5, INF, 2, INF, 9), (0, 2)),
        ({"by": "margin", "remove": 2}, figures(5, 6, 7, margins=[0.3, 0.9, 0.5]), (1, 2)),
        ({"by": "margin", "remove": {"lowest": 2}}, figures(5, 6, 7, margins=[0.3, 0.9, 0.5]), (0, 2)),
        ({"by": "margin", "remove": "infinite"}, figures(5, INF, 7), (1,)),
        ({"by": "block_influence", "remove": 2}, figures(0.4, 0.1, 0.3, 0.2), (1, 3)),
        ({"by": "block_influence", "remove": {"lowest": 1}}, figures(0.4, 0.1, 0.3, 0.2), (1,)),
        ({"by": "perplexity", "remove": 2}, figures(40, 11, 30, 12), (1, 3)),
        ({"by": "perplexity", "remove": 1}, figures(12, 12, 30), (1,)),
        ({"by": "angular_distance", "remove": 2}, figures(0.4, 0.3, 0.1, 0.2, 0.0), (2, 3)),
        ({"by": "angular_distance", "remove": 2, "protect": {"last": 2}}, figures(0.4, 0.3, 0.1, 0.2, 0.0), (1, 2)),
        ({"by": "reverse_order", "remove": 2, "protect": {"last": 1}}, figures(0, 0, 0, 0, 0), (2, 3)),
        ({"by": "list", "remove": [3, 1]}, figures(0, 0, 0, 0, 0), (1, 3)),
        ({"by": "snr", "remove": 1}, figures(2, 2, 2), (2,)),
    ],
)
def test_select_layers(settings, rows, expected):
    assert select_layers(prune(**settings), rows) == expected
    assert select_layers(prune(**settings), rows[::-1]) == expected


def test_methods_without_figures_need_only_the_layer_count():
    assert select_layers(prune(by="reverse_order", remove=2), (), 10) == (8, 9)
    assert select_layers(prune(by="list", remove=[0]), (), 10) == (0,)


def test_layers_without_a_figure_are_never_removed():
    """Hybrid models have attention in some layers only."""
    some = [figure for figure in figures(INF, INF, INF, INF, 1) if figure.layer % 2 == 0]
    assert select_layers(prune(by="snr", remove="infinite"), some, 5) == (0, 2)
    assert select_layers(prune(by="snr", remove="infinite", protect={"last": 3}), some, 5) == (0,)


@pytest.mark.parametrize(
    ("settings", "rows", "key", "problem"),
    [
        (
            {"by": "snr", "remove": "infinite"},
            figures(1, 2, margins=[0.2, 0.8]),
            "remove",
            "largest margin is 0.8, of layer 1",
        ),
        ({"by": "snr", "remove": "infinite", "protect": {"first": 9}}, figures(INF, 2), "remove", "not protected"),
        ({"by": "snr", "remove": "infinite"}, figures(INF, INF), "remove", "all 2 layers"),
        ({"by": "snr", "remove": 5}, figures(1, 2, 3), "remove", "asks for 5 layers, but only 3"),
        ({"by": "snr", "remove": 3}, figures(1, 2, 3), "remove", "all 3 layers"),
        ({"by": "snr", "remove": 1}, figures(1, math.nan, 3), "by", "without a value"),
        ({"by": "angular_distance", "remove": 2, "protect": {"first": 2}}, figures(1, 2, 3), "remove", "no such run"),
        ({"by": "reverse_order", "remove": 3, "protect": {"first": 1}}, figures(1, 2, 3), "remove", "only 2"),
        ({"by": "list", "remove": [7]}, figures(1, 2, 3), "remove", "layer 7 does not exist; m has the layers 0 to 2"),
        ({"by": "list", "remove": [0], "protect": {"first": 1}}, figures(1, 2, 3), "remove", "layer 0 is protected"),
    ],
)
def test_what_cannot_be_removed(settings, rows, key, problem):
    with pytest.raises(RecipeError) as caught:
        select_layers(prune(**settings), rows)
    assert problem in str(caught.value)
    assert caught.value.key == f"prune_layers.{key}"


def test_two_figures_of_one_layer_are_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="more than one figure"):
        select_layers(prune(by="snr", remove=1), figures(1, 2) + figures(3))


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=n - 1))))
def test_the_layers_that_stay_are_the_others_in_order(case):
    count, removed = case
    template = prune(by="list", remove=sorted(removed) or [0])
    slices = expand_prune_layers(template, count, removed)
    assert layers(slices) == [layer for layer in range(count) if layer not in removed]
    assert all(left[1] < right[0] for left, right in zip(ranges(slices), ranges(slices)[1:], strict=False))
