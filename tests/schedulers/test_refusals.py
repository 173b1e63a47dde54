"""Every exported scheduler is supported or refused by name, and a setting that cannot work says what to change."""

import copy
import subprocess
import sys

import diffusers
import diffusers.schedulers
import pytest
import torch

from couple.schedulers import check, levels, predict_x0, table
from couple.schedulers.listing import exported
from couple.schedulers.refusals import REFUSED
from couple.schedulers.support import SUPPORTED
from tests.schedulers.cases import CASES
from tests.schedulers.loop import Case, levels_of

NEEDS = {"RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0}}
NEEDS |= {"VQDiffusionScheduler": {"num_vec_classes": 8}, "AmusedScheduler": {"mask_token_id": 0}}


def test_every_scheduler_of_the_installed_diffusers_is_supported_or_refused():
    unknown = set(exported()) - SUPPORTED.keys() - REFUSED.keys()
    assert not unknown, f"diffusers {diffusers.__version__} exports schedulers that couple does not know: {unknown}"
    assert {row.scheduler for row in table()} == set(exported())


def test_the_listing_misses_no_scheduler_class():
    public = (getattr(diffusers.schedulers, name) for name in dir(diffusers.schedulers) if not name.startswith("_"))
    base = diffusers.SchedulerMixin
    classes = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, base) and c is not base}
    assert classes == set(exported())


def test_every_supported_class_is_in_the_cases_of_the_contract():
    assert {case.name for case in CASES} == SUPPORTED.keys()
    assert not SUPPORTED.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_class_is_named_with_the_reason_and_an_alternative(name):
    scheduler = getattr(diffusers.schedulers, name)(**NEEDS.get(name, {}))
    reason, instead = REFUSED[name]
    for read in (lambda: check(scheduler), lambda: levels(scheduler, 1), lambda: predict_x0(scheduler, None, 1, None)):
        with pytest.raises(NotImplementedError, match=rf"^{name} cannot be coupled: .*\. Use ") as refusal:
            read()
        assert reason in str(refusal.value) and instead in str(refusal.value)


def test_an_unknown_scheduler_is_named_with_the_known_ones():
    class Homemade:
        config = {}

    with pytest.raises(TypeError, match=r"the class Homemade, not a scheduler. Did you mean Homemade\(\)\?"):
        check(Homemade)
    with pytest.raises(
        NotImplementedError, match="Homemade is not a scheduler that couple knows.*DDIMScheduler.*(flow)"
    ):
        check(Homemade())


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("DDIM", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "alpha = 0.*v_prediction"),
        ("DDPM", {"rescale_betas_zero_snr": True, "timestep_spacing": "linspace"}, "alpha = 0.*v_prediction"),
        ("LCM", {"rescale_betas_zero_snr": True}, "alpha = 0"),
        ("UniPCMultistep", {"prediction_type": "flow_prediction"}, "use_flow_sigmas=True"),
        ("DPMSolverMultistep", {"use_flow_sigmas": True, "use_karras_sigmas": True}, "use_karras_sigmas=False"),
        ("UniPCMultistep", {"use_flow_sigmas": True, "use_beta_sigmas": True}, "use_beta_sigmas=False"),
        ("EulerAncestralDiscrete", {"prediction_type": "sample"}, "its step takes epsilon or v_prediction"),
        ("PNDM", {"prediction_type": "sample"}, "its step takes epsilon or v_prediction"),
        ("FlowMatchEulerDiscrete", {"invert_sigmas": True, "stochastic_sampling": True}, "invert_sigmas=False"),
        ("FlowMatchLCM", {"invert_sigmas": True}, "invert_sigmas=False"),
        ("FlowMatchLCM", {"scale_factors": [0.5, 1.0]}, "scale_factors=None"),
        ("Helios", {}, "stages=1"),
        ("Helios", {"stages": 1, "scheduler_type": "dmd"}, "scheduler_type='unipc'"),
    ],
)
def test_a_setting_without_levels_is_refused_with_the_one_to_use(name, config, message):
    scheduler = getattr(diffusers.schedulers, name + "Scheduler")(**config)
    with pytest.raises(ValueError, match=f"^{name}Scheduler.*{message}"):
        check(scheduler)


def test_zero_snr_with_epsilon_is_accepted_where_the_schedule_does_not_start_there():
    check(diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="leading"))


@pytest.mark.parametrize("name", ["DDIM", "CogVideoXDDIM", "PNDM", "RePaint"])
def test_levels_without_a_schedule_say_to_set_one(name):
    scheduler = getattr(diffusers.schedulers, name + "Scheduler")()
    with pytest.raises(ValueError, match=rf"{name}Scheduler has no schedule yet.*set_timesteps"):
        levels(scheduler, 5)


def first_of_each() -> list[Case]:
    return list({case.name: case for case in reversed(CASES)}.values())


@pytest.mark.parametrize("case", first_of_each(), ids=lambda case: case.name)
def test_a_subclass_is_read_like_the_class_it_derives_from(case):
    scheduler = case.scheduler()
    sample = torch.zeros(1, 3, 4, 4)
    wanted = levels_of(case, scheduler, 0, sample)
    swapped, renamed = copy.deepcopy(scheduler), copy.deepcopy(scheduler)
    swapped.__class__ = type(case.name, (type(scheduler),), {})
    renamed.__class__ = type("Mine", (type(swapped),), {})
    for other in (swapped, renamed):
        check(other)
        assert levels_of(case, other, 0, sample) == wanted


def test_reading_schedulers_does_not_import_diffusers():
    code = "import sys, couple.schedulers; assert not {'diffusers', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
