"""Means, standard errors and the rules that read tables."""

import math

import pytest

from couple.reproduce import report, tuning
from couple.reproduce.ledger import Unit, settled
from couple.reproduce.plan import DEFAULT, ROWS, STRENGTHS, chosen_settings, plan, tuning_plan
from couple.reproduce.scenes import TEST
from couple.reproduce.tables import as_csv, difference, differences, markdown, mean, rows


def results(**ways):
    """For each way the PSNR and error of three scenes with two seeds; the second seed has 1 dB more."""
    return {
        Unit("relight", way.replace("_", " "), (), seed, scene): {"psnr": psnr[scene] + seed, "error": error[scene]}
        for way, (psnr, error) in ways.items()
        for scene in range(3)
        for seed in range(2)
    }


def test_a_scene_is_a_sample():
    table = rows(results(relax=([20.0, 22.0, 24.0], [10.0, 10.0, 13.0])))
    found = table[0].mean("psnr")
    assert (found.value, found.count) == (22.5, 3)
    assert found.error == pytest.approx(2 / math.sqrt(3))


def test_a_pair_is_a_sample():
    unit = Unit("image pairs", "apart", (), 0, 0)
    other = Unit("image pairs", "apart", (), 0, 1)
    table = rows({unit: {"distance": [1.0, 2.0]}, other: {"distance": [3.0, 6.0]}})
    assert table[0].mean("distance") == mean([1.0, 2.0, 3.0, 6.0])


def test_differences_are_paired():
    table = rows(results(relax=([20.0, 22.0, 24.0], [9.0] * 3), other=([19.5, 21.5, 23.5], [10.0] * 3)))
    assert difference(*table, "psnr") == mean([0.5, 0.5, 0.5])
    assert "0.50 ± .00" in differences(table, table[0], ("psnr",))


def test_best_values_are_bold_and_the_input_is_not():
    table = rows(results(input=([30.0] * 3, [3.0] * 3), a=([20.0] * 3, [9.0] * 3), b=([21.0] * 3, [10.0] * 3)))
    lines = markdown(table).split("\n")
    assert lines[2] == "| the input, unedited | 30.50 ± .00 | 3.00 ± .00 |"
    assert lines[3] == "| a | 20.50 ± .00 | **9.00 ± .00** |"
    assert lines[4] == "| b | **21.50 ± .00** | 10.00 ± .00 |"


def test_csv_says_what_ran_away():
    found = results(constant=([20.0] * 3, [9.0] * 3))
    found[Unit("relight", "constant", (), 0, 9)] = {}
    assert as_csv(rows(found)).split("\n")[1] == "constant,,3,1,20.5,0,9,0"


@pytest.mark.parametrize(
    ("psnr", "error", "words"),
    [
        (20.0, [8.0, 8.1, 8.2], ["more consistent than", "no worse"]),
        (19.0, [8.0, 8.1, 8.2], ["more consistent than", "; worse"]),
        (20.0, [5.0, 20.0, 9.0], ["not clearly more", "no worse"]),
    ],
)
def test_verdict(psnr, error, words):
    ways = {"relax": ([psnr] * 3, error), "per-image": ([20.2] * 3, [12.0] * 3), "Liu et al.": ([19.0] * 3, [10.0] * 3)}
    text = report.verdict(rows(results(**ways)), "relax")
    assert all(part in text for part in words), text


def test_settings_are_chosen_by_the_rule():
    scores = {0.1: (20.0, 9.0), 0.3: (20.25, 8.0), 1.0: (20.4, 8.5), 3.0: (19.0, 5.0)}
    found = {
        Unit("relight, tuning", "constant", settled({"weight": weight}), 0, scene): {"psnr": psnr, "error": error}
        for weight, (psnr, error) in scores.items()
        for scene in range(2)
    }
    found[Unit("relight, tuning", "constant", settled({"weight": 9.0}), 0, 0)] = {}
    assert tuning.chosen(found) == {"relight": {"constant": {"weight": 0.3}}}


def test_the_plan_is_what_it_says():
    units = plan(DEFAULT, chosen_settings())
    assert len(set(units)) == len(units)
    assert {unit.experiment for unit in units} == set(ROWS)
    relight = [unit for unit in units if unit.experiment == "relight" and unit.row == "relax"]
    assert len({unit.scene for unit in relight}) == 24 and len({unit.seed for unit in relight}) == 3
    assert all(len(strengths) >= 10 for strengths in STRENGTHS.values())
    tested = {unit.scene for unit in units if unit.scene >= TEST}
    assert tested.isdisjoint(unit.scene for unit in tuning_plan())


def test_every_row_has_a_chosen_setting():
    wanted = {(unit.experiment.removesuffix(", tuning"), unit.row) for unit in tuning_plan(1)}
    settings = chosen_settings()
    assert wanted == {(task, way) for task, ways in settings.items() for way in ways}
