"""Many runs in one process leave nothing behind: the bounded part of `benchmarks/endurance.py`."""

import pytest

from benchmarks.endurance import Net, counted, one_run


@pytest.mark.filterwarnings("ignore:.*was pulled by")
def test_sixty_runs_some_of_which_fail_leave_nothing_behind(tmp_path):
    net = Net()
    for number in range(30):  # every way to run once, so that what is made once is there
        one_run(number, net, tmp_path)
    before = counted()
    for number in range(60):
        one_run(number, net, tmp_path)
    assert counted() == before
    assert type(net) is Net and not net._forward_hooks and not net._forward_pre_hooks
    assert list(tmp_path.iterdir()) == []
