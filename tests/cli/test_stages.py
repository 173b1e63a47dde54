"""The progress display: stages follow each other, their times add up, and steps are counted."""

from types import SimpleNamespace

import pytest

from couple.cli.stages import Stages


def test_the_steps_of_a_sampling_part_encoding_from_decoding(capsys):
    with Stages() as stages:
        stages.begin("load")
        for _ in range(2):
            stages.begin("encode")
            for done in (2, 4, 6):
                stages.stepped(done, 6)
        stages.begin("write")
    assert list(stages.seconds) == ["load", "encode", "denoise", "decode", "write"]
    assert all(seconds >= 0 for seconds in stages.seconds.values())
    lines = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")]
    shown = [line.split()[0] for line in lines if line]
    assert shown == ["load", *("encode", "denoise", "decode") * 2, "write"]
    counted = next(line for line in lines if line.startswith("denoise"))
    assert "100%" in counted and "6/6" in counted and "/step" in counted.replace("step/s", "/step")


def test_a_stage_that_comes_again_adds_to_its_time(monkeypatch):
    clock = iter([10.0, 11.5, 20.0, 20.25, 30.0, 34.0])
    monkeypatch.setattr("couple.cli.stages.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with Stages(show=False) as stages:
        for stage in ("load", "write", "load"):
            stages.begin(stage)
    assert stages.seconds == {"load": 5.5, "write": 0.25}


def test_a_first_report_after_the_last_stage_begins_a_new_bar_with_what_is_left():
    with Stages(show=False) as stages:
        stages.stepped(20, 48)
        assert list(stages.seconds) == []
        stages.stepped(50, 52)
        stages.stepped(52, 52)
        assert list(stages.seconds) == ["denoise"]
    assert list(stages.seconds) == ["denoise", "decode"]


def test_a_failing_stage_is_closed_and_a_hidden_display_prints_nothing(capsys):
    stages = Stages(show=False)
    with pytest.raises(KeyError), stages:
        stages.begin("load")
        raise KeyError
    assert list(stages.seconds) == ["load"]
    assert capsys.readouterr() == ("", "")
