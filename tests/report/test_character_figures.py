"""Figures of one training run: what is drawn lies where its number says, and the number stands beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from skippy.core.personality.deltas import BAND
from skippy.report.character_figures import CharacterHistory, draw_character_figures
from skippy.report.trait_profile import CENTRE, choose_moments
from tests.report.character_example import KINDS, example_history, example_point, example_target
from tests.report.report_example import corners, marked

NAMES = {"trajectory.svg", "targets.svg", "traits.svg"}


def draw(name: str, **changes) -> ElementTree.Element:
    return ElementTree.fromstring(draw_character_figures(replace(example_history(), **changes))[name])


def texts(figure: ElementTree.Element) -> list[str]:
    return [item.text or "" for item in figure.iter() if item.tag.endswith("}text")]


def radii(path: dict[str, str]) -> list[float]:
    return [math.dist(corner, CENTRE) for corner in corners(path)]


class TestFiles:
    def test_all_three_are_well_formed_and_carry_their_style(self):
        drawn = draw_character_figures(example_history())
        assert set(drawn) == NAMES
        for text in drawn.values():
            figure = ElementTree.fromstring(text)
            assert figure.get("aria-label")
            assert sum(item.tag.endswith("}style") for item in figure.iter()) == 1
            assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched

    def test_bytes_repeat_and_follow_the_numbers(self):
        assert draw_character_figures(example_history()) == draw_character_figures(example_history())
        moved = replace(example_history(), points=[example_point(5, 0.0901), example_point(10, 0.2)])
        before, after = draw_character_figures(example_history()), draw_character_figures(moved)
        assert before["trajectory.svg"] != after["trajectory.svg"]
        assert before["targets.svg"] == after["targets.svg"]

    def test_what_was_not_measured_is_not_drawn(self):
        assert draw_character_figures(CharacterHistory("skippy", "v4")) == {}
        assert set(draw_character_figures(replace(example_history(), traits={}))) == NAMES - {"traits.svg"}

    def test_names_from_a_character_file_are_escaped(self):
        traits = {1: {"<b>&": 0.1, "b": 0.2, "c": 0.3}}
        figure = draw("traits.svg", traits=traits, character='a "<&>" name')
        assert "<b>&" in texts(figure)


class TestTrajectory:
    @pytest.mark.parametrize(
        ("ratio", "place"), [(0.13, "above"), (0.08, "inside"), (0.02, "below"), (0.1101, "above")]
    )
    def test_a_point_lies_on_its_side_of_the_band_and_the_headline_says_so(self, ratio, place):
        points = [example_point(10, 0.08), example_point(20, ratio)]
        figure = draw("trajectory.svg", points=points)
        band = [y for _, y in corners(marked(figure, "null-band")[0])]
        y = float(marked(figure, "dot")[-1].get("cy", "nan"))
        drawn = "above" if y < min(band) else "below" if y > max(band) else "inside"
        assert drawn == place
        headline = texts(figure)[0]
        assert headline.startswith("V4 skippy, step 20: ")
        assert headline.endswith(f"{place} the null band")

    def test_curve_chance_and_null_are_labelled_where_they_end_with_their_values(self):
        figure = draw("trajectory.svg")
        joined = "\n".join(texts(figure))
        for label in ("V4 18.4\u00a0%, z +6.9", "chance 3.60\u00a0%", "null band 5.00\u00a0% – 11.0\u00a0%"):
            assert label in joined
        assert f"{100 * BAND[0]:g}–{100 * BAND[1]:g} % band" in joined
        last = float(marked(figure, "dot")[-1].get("cx", "nan"))
        beside = [
            item for item in figure.iter() if item.tag.endswith("}text") and float(item.get("x")) > last + 9
        ]
        assert len(beside) == 3

    def test_curve_chance_and_band_lie_where_the_axis_says(self):
        points = [example_point(10, 0.13, low=0.04, high=0.09), example_point(40, 0.2, low=0.06, high=0.11)]
        figure = draw("trajectory.svg", points=points)
        ticks = [item for item in marked(figure, "tick") if item.get("text-anchor") == "end"]
        (low, bottom), (high, top) = (
            (float(tick["hint"]), float(tick["y"]) - 4) for tick in (ticks[0], ticks[-1])
        )
        (curve,), (chance,), (band,) = (marked(figure, style) for style in ("curve", "chance", "null-band"))
        for path, expected in (
            (curve, (13, 20)),
            (chance, (3.6, 3.6)),
            (band, (9, 11, 6, 4)),  # out along the upper edge, back along the lower
        ):
            drawn = [low + (y - bottom) / (top - bottom) * (high - low) for _, y in corners(path)]
            assert drawn == pytest.approx(expected, abs=0.02)
        across = [x for x, _ in corners(curve)]
        assert (across[1] - 44) == pytest.approx(4 * (across[0] - 44), abs=0.3)

    def test_labels_of_equal_values_do_not_cover_each_other(self):
        point = replace(example_point(10, 0.05, low=0.05, high=0.05001), chance=0.05, null_z=0.0)
        figure = draw("trajectory.svg", points=[replace(point, step=5), point])
        last = float(marked(figure, "dot")[-1].get("cx", "nan"))
        heights = sorted(
            float(item.get("y"))
            for item in figure.iter()
            if item.tag.endswith("}text") and float(item.get("x")) > last + 9
        )
        assert all(b - a >= 14 for a, b in pairwise(heights))

    def test_a_single_measurement_has_a_band_with_a_width(self):
        band = corners(marked(draw("trajectory.svg", points=[example_point(7, 0.2)]), "null-band")[0])
        assert max(x for x, _ in band) - min(x for x, _ in band) > 5


class TestTargets:
    def test_every_target_prints_its_share_and_its_z(self):
        history = example_history()
        figure = draw("targets.svg")
        values = [item["hint"] for item in marked(figure, "value")]
        asides = [item["hint"] for item in marked(figure, "aside")]
        for target in history.targets:
            digits = 1 if target.ratio >= 0.0995 else 2
            assert f"{100 * target.ratio:.{digits}f}" in values
            assert f"z {target.z:+.1f}".replace("-", "−") in asides
        assert len(values) == 4 * 7 + 4 + 7 + 1  # cells, layers, modules, all
        assert {"layer 0", "layer 3", "all layers", "all modules", *KINDS} <= set(texts(figure))

    def test_colour_tells_the_side_of_the_band(self):
        targets = [example_target(0, kind, r) for kind, r in zip(KINDS, (0.2, 0.1, 0.01), strict=False)]
        figure = draw("targets.svg", targets=targets)
        shown = {style: len(marked(figure, f"cell-{style}")) - 1 for style in ("above", "inside", "below")}
        assert shown == {"above": 1, "inside": 1, "below": 1}
        assert "1 of 3 targets are above their null band" in texts(figure)[0]

    def test_shade_tells_how_far_outside_the_null(self):
        targets = [example_target(0, kind, r) for kind, r in zip(KINDS, (0.125, 0.17, 0.9), strict=False)]
        cells = marked(draw("targets.svg", targets=targets), "cell-above")[:3]
        shades = [float(cell.get("fill-opacity", "nan")) for cell in cells]
        assert shades == pytest.approx([0.275, 0.45, 0.45])  # z = 3, 6 and far beyond

    def test_margins_pool_energies_and_do_not_average_ratios(self):
        targets = [
            example_target(0, "q_proj", 0.10, energy=9.0),
            replace(example_target(0, "o_proj", 0.50, energy=1.0), null_mean=0.2),
        ]
        figure = draw("targets.svg", targets=targets)
        values = [item["hint"] for item in marked(figure, "value")]
        assert values.count("14.0") == 2  # (0.9 + 0.5) / 10, for the layer and for everything
        assert texts(figure).count("null 9.20") == 2  # (9 · 0.08 + 0.2) / 10
        assert "30.0" not in values

    def test_what_did_not_move_and_what_is_not_there_say_so(self):
        still = replace(example_target(1, "q_proj", 0.0, energy=0.0), ratio=math.nan, z=math.nan)
        figure = draw(
            "targets.svg", targets=[example_target(0, "q_proj", 0.1), example_target(0, "k_proj", 0.1), still]
        )
        asides = [item["hint"] for item in marked(figure, "aside")]
        assert asides.count("no update") == 2  # the target, and its layer
        assert asides.count("no target") == 1
        assert "nan" not in ElementTree.tostring(figure, encoding="unicode").replace("nano", "")

    def test_a_wide_model_keeps_its_small_shares_apart(self):
        targets = [example_target(0, "q_proj", 0.00171), example_target(0, "k_proj", 0.00149)]
        values = [item["hint"] for item in marked(draw("targets.svg", targets=targets), "value")]
        assert {"0.171", "0.149"} <= set(values)


class TestTraits:
    def test_every_spoke_has_its_name_and_its_three_values(self):
        history = example_history()
        printed = texts(draw("traits.svg"))
        start, middle, end = (history.traits[step] for step in (5, 30, 60))
        for name in end:
            figures = " → ".join(f"{p[name]:+.2f}".replace("-", "−") for p in (start, middle, end))
            assert {name, figures} <= set(printed)
        assert {"start · step 5", "middle · step 30", "end · step 60", "base 0"} <= set(printed)
        assert "furthest from the base in arrogance" in printed[0]

    def test_an_outline_is_outside_the_base_where_a_trait_grew_and_inside_where_it_fell(self):
        figure = draw("traits.svg", traits={3: {"a": 0.5, "b": 0.0, "c": -0.5}})
        (base,), (end,) = marked(figure, "web-base"), marked(figure, "profile-end")
        a, b, c = (drawn - zero for drawn, zero in zip(radii(end), radii(base), strict=True))
        assert texts(draw("traits.svg", traits={3: {"a": 0.5, "b": 0.0, "c": -0.6}}))[0].endswith("c, −0.60")
        assert a > 10
        assert b == pytest.approx(0.0, abs=0.2)
        assert c < -10

    def test_a_profile_of_zeros_is_the_base_and_not_a_point(self):
        figure = draw(
            "traits.svg", traits={3: {"a": 0.0, "b": 0.0, "c": 0.0}, 6: {"a": 1.0, "b": 0.0, "c": 0.0}}
        )
        (base,), (start,) = marked(figure, "web-base"), marked(figure, "profile-start")
        assert corners(base) == corners(start)
        assert min(radii(base)) > 10

    def test_the_null_is_a_ring_about_the_base_as_wide_as_its_reach(self):
        profile = {"a": 1.0, "b": 0.1, "c": -0.6}
        figure = draw("traits.svg", traits={3: profile}, trait_null={"a": 0.4, "b": 0.4, "c": 0.2})
        (base,), (ring,), (end,) = (marked(figure, s) for s in ("web-base", "null-band", "profile-end"))
        zero, edge, tip = radii(base)[0], radii(ring), radii(end)
        for i, (value, reach) in enumerate(zip(profile.values(), (0.4, 0.4, 0.2), strict=True)):
            outer, inner = edge[i], edge[-1 - i]
            assert outer - zero == pytest.approx(zero - inner, abs=0.3)
            assert outer - zero == pytest.approx(reach * (tip[0] - zero), abs=0.3)
            assert (inner < tip[i] < outer) == (abs(value) < reach)
        assert texts(figure)[0].endswith("; 2 of 3 traits outside the null")
        assert any(line.startswith("Shaded, the null: where 95 %") for line in texts(figure))

    def test_bars_have_the_null_behind_them(self):
        figure = draw("traits.svg", traits={3: {"a": 1.0, "b": 0.1}}, trait_null={"a": 0.5, "b": 0.2})
        wide, narrow = (float(band.get("width", "nan")) for band in marked(figure, "null-band"))
        bar = float(marked(figure, "bar")[0].get("width", "nan"))
        assert wide == pytest.approx(bar, abs=0.3)
        assert wide == pytest.approx(2.5 * narrow, abs=0.3)
        assert texts(figure)[0].endswith("; 1 of 2 traits outside the null")

    def test_without_a_null_no_band_is_drawn_and_none_is_spoken_of(self):
        figure = draw("traits.svg", trait_null={})
        assert not marked(figure, "null-band")
        assert not any("null" in line for line in texts(figure))

    @pytest.mark.parametrize("names", ["ab", "abc"])
    def test_before_the_first_update_there_is_a_figure(self, names):
        assert "end · step 1" in texts(draw("traits.svg", traits={1: dict.fromkeys(names, 0.0)}))

    @pytest.mark.parametrize(("count", "is_radar"), [(1, False), (2, False), (3, True), (8, True)])
    def test_fewer_than_three_traits_are_bars(self, count, is_radar):
        profile = {f"t{i}": 0.1 * (i + 1) for i in range(count)}
        figure = draw("traits.svg", traits={1: {name: 0.0 for name in profile}, 9: profile})
        assert bool(marked(figure, "profile")) is is_radar
        assert len(marked(figure, "bar")) == (0 if is_radar else 2 * count)
        assert {"start · step 1", "end · step 9", *profile} <= set(texts(figure))

    def test_bars_are_as_long_as_their_values_on_either_side_of_the_base(self):
        bars = marked(draw("traits.svg", traits={1: {"a": 0.2, "b": -0.4}}), "bar")
        a, b = (float(bar.get("width", "nan")) for bar in bars)
        assert b == pytest.approx(2 * a, abs=0.2)
        assert float(bars[1].get("x")) + b == pytest.approx(float(bars[0].get("x")), abs=0.2)

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            ([], {}),
            ([7], {"end": 7}),
            ([7, 3], {"start": 3, "end": 7}),
            ([25, 50, 75, 100], {"start": 25, "middle": 50, "end": 100}),
            ([1, 2, 100], {"start": 1, "middle": 2, "end": 100}),
        ],
    )
    def test_start_middle_and_end_are_measured_steps(self, steps, expected):
        assert choose_moments(steps) == expected
