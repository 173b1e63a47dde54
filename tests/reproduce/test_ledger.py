"""A ledger gives back what was written, forgets what was cut off, and keeps runs of other models apart."""

import pytest

from couple.reproduce.ledger import Ledger, Unit, settled

UNIT = Unit("relight", "relax", settled({"weight": 1, "decay": 0.5}), 2, 10_000_003)


def test_it_goes_on(tmp_path):
    path = tmp_path / "new" / "ledger.jsonl"
    ledger = Ledger(path, {"models": "a", "steps": 4})
    assert UNIT not in ledger
    ledger.add(UNIT, {"psnr": 20.5, "distance": [1.0, 2.0]})
    again = Ledger(path, {"models": "a", "steps": 4})
    assert again[UNIT] == {"psnr": 20.5, "distance": [1.0, 2.0]}
    assert list(again.of([UNIT, Unit("relight", "relax", (), 2, 10_000_003)])) == [UNIT]


def test_a_cut_off_line_is_dropped(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path, {}).add(UNIT, {"psnr": 1.0})
    with path.open("a") as file:
        file.write('{"experiment": "relight", "ro')
    ledger = Ledger(path, {})
    other = Unit("relight", "per-image", (), 0, 1)
    ledger.add(other, {})
    assert Ledger(path, {}).of([UNIT, other]) == {UNIT: {"psnr": 1.0}, other: {}}


def test_other_models_are_refused(tmp_path):
    Ledger(tmp_path / "ledger.jsonl", {"models": "a"})
    with pytest.raises(ValueError, match="name another folder"):
        Ledger(tmp_path / "ledger.jsonl", {"models": "b"})
