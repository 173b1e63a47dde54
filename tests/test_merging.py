"""Merged forwards equal separate ones, whatever shape the arguments have, and bad merges are noticed."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from diffusers.utils import BaseOutput
from torch import nn

from couple.engine.merging import Merger, Request
from couple.engine.modes import Modes
from couple.hooks import Processors


@dataclass
class Output(BaseOutput):
    sample: torch.Tensor
    extras: tuple[torch.Tensor, ...] = ()


class Rows(nn.Module):
    """Treats rows independently; its arguments are as varied as those of real networks."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.batches = []

    def forward(self, x, t, img_ids=None, context=None, scale=1.0, return_dict=True):
        self.batches.append(x.shape[0])
        t = t.expand(x.shape[0]).reshape(-1, 1)
        out = self.linear(x) * scale + t
        if img_ids is not None:
            out = out + img_ids.sum()
        if context is not None:
            out = out + context["text"][0] + context["pooled"]
        return Output(out, (out * 2,)) if return_dict else (out, [out + 1, None])


class Standardised(Rows):
    """Looks at the whole batch, as batch-splitting guidance does."""

    def forward(self, x, *args, **kwargs):
        return super().forward(x - x.mean(0), *args, **kwargs)


def requests(module, *calls, modes=None, alone=False):
    modes = modes or Modes.current()
    return [Request(module, module, args, kwargs, modes, (), alone) for args, kwargs in calls]


def merger(max_batch=None):
    return Merger(max_batch, Processors([]))


def x(seed, rows=2):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def check_equal(module, calls, outputs):
    for (args, kwargs), output in zip(calls, outputs, strict=True):
        torch.testing.assert_close(output, module(*args, **kwargs))


def calls_with_everything(return_dict=True):
    ids = torch.arange(6.0).reshape(2, 3)  # as many tokens as rows: must still not be concatenated
    return [
        (
            (x(k), torch.tensor(7.0)),
            {
                "img_ids": ids.clone(),
                "context": {"text": [x(k + 10)], "pooled": x(k + 20)},
                "scale": 0.5,
                "return_dict": return_dict,
            },
        )
        for k in range(3)
    ]


@pytest.mark.parametrize("return_dict", [True, False])
def test_nested_arguments_scalar_timesteps_and_unbatched_ids_merge_into_one_forward(return_dict):
    module, serving = Rows(), merger()
    calls = calls_with_everything(return_dict)
    serving.serve(requests(module, *calls))  # the first meeting is a check: three separate and one merged
    module.batches.clear()
    outputs = serving.serve(requests(module, *calls))
    assert module.batches == [6]
    assert type(outputs[0]) is (Output if return_dict else tuple)
    check_equal(module, calls, outputs)


def test_calls_of_different_batch_sizes_merge():
    module, serving = Rows(), merger()
    calls = [((x(0, rows=1), torch.tensor(1.0)), {}), ((x(1, rows=3), torch.tensor(1.0)), {})]
    serving.serve(requests(module, *calls))
    module.batches.clear()
    outputs = serving.serve(requests(module, *calls))
    assert module.batches == [4]
    check_equal(module, calls, outputs)


@pytest.mark.parametrize(
    "second",
    [
        ((x(1), torch.tensor(2.0)), {}),
        ((x(1), torch.tensor(1.0)), {"scale": 2.0}),
        ((x(1), torch.tensor(1.0)), {"context": {"text": [x(3)], "pooled": x(4)}}),
        ((x(1).double().float()[:, :4], torch.tensor([1.0])), {}),
    ],
)
def test_calls_that_differ_in_what_has_no_batch_axis_are_served_one_by_one(second):
    module, serving = Rows(), merger()
    calls = [((x(0), torch.tensor(1.0)), {}), second]
    check_equal(module, calls, serving.serve(requests(module, *calls)))
    assert max(module.batches) == 2


def test_max_batch_limits_how_many_calls_share_a_forward():
    module, serving = Rows(), merger(max_batch=2)
    calls = [((x(k), torch.tensor(1.0)), {}) for k in range(5)]
    serving.serve(requests(module, *calls))
    module.batches.clear()
    check_equal(module, calls, serving.serve(requests(module, *calls)))
    assert module.batches[:3] == [4, 4, 2]


def test_max_batch_of_one_never_merges():
    module, serving = Rows(), merger(max_batch=1)
    calls = [((x(k), torch.tensor(1.0)), {}) for k in range(3)]
    for (args, kwargs), output in zip(calls, serving.serve(requests(module, *calls)), strict=True):
        assert torch.equal(output.sample, module(*args, **kwargs).sample)
    assert serving.forwards == 3


def test_a_network_that_looks_at_the_whole_batch_is_found_out_once_and_served_one_by_one():
    module, serving = Standardised(), merger()
    calls = [((x(k), torch.tensor(1.0)), {}) for k in range(2)]
    with pytest.warns(RuntimeWarning, match="Standardised gave other numbers: its calls are served one by one"):
        check_equal(module, calls, serving.serve(requests(module, *calls)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_equal(module, calls, serving.serve(requests(module, *calls)))


def test_a_network_that_fails_when_merged_is_served_one_by_one():
    class Two(Rows):
        def forward(self, x, *args, **kwargs):
            if x.shape[0] != 2:
                raise ValueError("two rows only")
            return super().forward(x, *args, **kwargs)

    module, serving = Two(), merger()
    calls = [((x(k), torch.tensor(1.0)), {}) for k in range(2)]
    with pytest.warns(RuntimeWarning, match="failed \\(two rows only\\)"):
        check_equal(module, calls, serving.serve(requests(module, *calls)))


def test_running_out_of_memory_is_not_mistaken_for_a_bad_merge():
    class Full(Rows):
        def forward(self, x, *args, **kwargs):
            if x.shape[0] != 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x, *args, **kwargs)

    calls = [((x(k), torch.tensor(1.0)), {}) for k in range(2)]
    with pytest.raises(torch.OutOfMemoryError):
        merger().serve(requests(Full(), *calls))


def test_an_error_of_a_single_forward_is_the_users_to_see():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        merger().serve(requests(Rows(), ((torch.ones(2, 5), torch.tensor(1.0)), {})))


def test_calls_under_different_torch_modes_do_not_merge():
    module, serving = Rows(), merger()
    with torch.no_grad():
        quiet = requests(module, ((x(0), torch.tensor(1.0)), {}))
    loud = requests(module, ((x(1), torch.tensor(1.0)), {}))
    outputs = serving.serve(quiet + loud)
    assert [output.sample.requires_grad for output in outputs] == [False, True]
    assert module.batches == [2, 2]


def test_requests_that_must_stay_alone_do():
    module = Rows()
    calls = [((x(k), torch.tensor(1.0)), {}) for k in range(2)]
    merger().serve(requests(module, *calls, alone=True))
    assert module.batches == [2, 2]


def test_timesteps_handed_out_as_views_of_equal_tables_are_compared_once():
    module, serving = Rows(), merger()
    tables = [torch.linspace(9, 1, 5), torch.linspace(9, 1, 5)]
    for step in range(5):
        calls = [((x(step + k), tables[k][step]), {}) for k in range(2)]
        check_equal(module, calls, serving.serve(requests(module, *calls)))
    assert len(serving._equal._known) == 1
