"""Contract: what a setting gives to a tensor, by mergekit's rules for gradients, filters and precedence.

The oracle for gradients is ``numpy.interp`` over evenly spaced points.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_assets.recipe import gradient, lookup, position, resolve
from merge_assets.recipe.parameters import Misfit, read_setting, write_setting

numbers = st.floats(-1e3, 1e3)
fractions = st.floats(0, 1)


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=9), fractions)
def test_a_gradient_is_linear_interpolation_of_evenly_spaced_values(values, t):
    expected = np.interp(t, np.linspace(0, 1, len(values)), values) if len(values) > 1 else values[0]
    assert gradient(values, t) == pytest.approx(expected, rel=1e-12, abs=1e-9)


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=9))
def test_a_gradient_starts_and_ends_exactly_at_its_first_and_last_value(values):
    assert gradient(values, 0.0) == values[0]
    assert gradient(values, 1.0) == values[-1]


def test_the_published_slerp_gradient_over_32_layers():
    """Layers 0, 8, 16, 24 and 31 of [0, .5, .3, .7, .7], by hand: t = i/31, x = 4t."""
    values = [0, 0.5, 0.3, 0.7, 0.7]
    got = [gradient(values, position(layer, 32)) for layer in (0, 8, 16, 24, 31)]
    by_hand = [0, 0.5 - 0.2 * (32 / 31 - 1), 0.3 + 0.4 * (64 / 31 - 2), 0.7, 0.7]
    assert got == pytest.approx(by_hand)


@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan")])
def test_a_gradient_has_no_values_outside_the_depth(t):
    with pytest.raises(ValueError, match="outside"):
        gradient([1, 2], t)


def test_a_gradient_without_values_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        gradient([], 0.5)


def test_positions_run_from_0_to_1_and_a_single_layer_stands_at_1():
    assert [position(i, 5) for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert position(0, 1) == 1


FILTERED = [{"filter": "self_attn", "value": [0, 1]}, {"filter": "attn.q", "value": 9}, {"value": 0.5}]


@pytest.mark.parametrize(
    ("raw", "tensor", "t", "expected"),
    [
        (0.3, "any", 0.7, 0.3),
        (True, "any", 0.7, True),
        ("paper", "any", 0.7, "paper"),
        ({"value": "paper", "filter": "mlp"}, "model.layers.3.mlp.up_proj.weight", 0.7, "paper"),
        ([0, 10], "any", 0.25, 2.5),
        (FILTERED, "model.layers.3.self_attn.q_proj.weight", 0.25, 0.25),
        (FILTERED, "model.layers.3.mlp.up_proj.weight", 0.25, 0.5),
        ({"value": 2, "filter": "mlp"}, "model.layers.3.mlp.up_proj.weight", 0, 2),
        ({"value": 2, "filter": "mlp"}, "model.norm.weight", 0, None),
        ({"value": 2, "filter": "*"}, "model.norm.weight", 0, 2),
        ({"value": 2, "filter": "MLP"}, "model.layers.3.mlp.up_proj.weight", 0, None),
        ({"value": 2, "filter": "m.*p"}, "model.layers.3.mlp.up_proj.weight", 0, None),
        ([{"value": 1, "filter": "*"}, {"value": 2, "filter": "norm"}], "model.norm.weight", 0, 1),
        ({"value": False, "filter": "norm"}, "model.norm.weight", 0, False),
    ],
)
def test_resolve(raw, tensor, t, expected):
    assert resolve(read_setting(raw), tensor, t) == expected


def test_the_first_scope_with_a_value_for_the_tensor_wins():
    source = {"t": read_setting({"value": 1, "filter": "mlp"})}
    whole = {"t": read_setting(3), "other": read_setting(4)}
    scopes = [source, {}, {"t": read_setting({"value": 2, "filter": "attn"})}, whole]
    assert lookup("t", "x.mlp.y", 0, scopes) == 1
    assert lookup("t", "x.attn.y", 0, scopes) == 2
    assert lookup("t", "x.norm", 0, scopes) == 3
    assert lookup("other", "x", 0, scopes) == 4
    assert lookup("missing", "x", 0, scopes) is None


def test_zero_and_false_are_values_and_stop_the_search():
    assert lookup("t", "x", 0, [{"t": 0}, {"t": 1}]) == 0
    assert lookup("t", "x", 0, [{"t": False}, {"t": True}]) is False


scalars = st.booleans() | st.integers(-5, 5) | numbers
plain = scalars | st.lists(numbers, min_size=1, max_size=4)
entries = st.fixed_dictionaries({"value": plain}, optional={"filter": st.text(max_size=5)})


@settings(deadline=None)
@given(plain | st.lists(entries, min_size=1, max_size=3))
def test_settings_survive_being_written_and_read(raw):
    setting = read_setting(raw)
    assert write_setting(setting) == raw
    assert read_setting(write_setting(setting)) == setting


@pytest.mark.parametrize(
    ("raw", "path", "expected"),
    [
        ("0.5", (), "'0.5' is not a number (without quotes)"),
        ("1e-5", (), "'1e-5' is not a number (without quotes)"),
        ("", (), "'' is not a number"),
        ("two words", (), "'two words' is not a number"),
        ({"value": "0.5"}, ("value",), "'0.5' is not a number (without quotes)"),
        ([0, "paper"], (1,), "'paper' is not a number"),
        (None, (), "an empty value"),
        ([], (), "the list is empty"),
        ([0, "1"], (1,), "'1' is not a number (without quotes)"),
        ([0, True], (1,), "not a number"),
        (float("nan"), (), "finite"),
        ([0, float("inf")], (1,), "finite"),
        ({"filter": "x"}, (), "no value"),
        ({"value": 1, "filtre": "x"}, (), "unknown key 'filtre'"),
        ({"value": 1, "filter": 3}, ("filter",), "not text"),
        ([{"value": 1}, 2], (1,), "mixed"),
        ([2, {"value": 1}], (0,), "mixed"),
        ([{"value": 1}, {"value": [1, "a"]}], (1, "value", 1), "not a number"),
        ({"value": {"value": 1}}, ("value",), "not a number"),
    ],
)
def test_wrong_settings_say_where_and_what(raw, path, expected):
    with pytest.raises(Misfit) as caught:
        read_setting(raw)
    assert expected in str(caught.value)
    assert caught.value.path == path
