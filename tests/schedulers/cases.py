"""The supported schedulers with their settings: one case for each way of setting one up that reads differently."""

from typing import Any

from tests.schedulers.loop import STABLE_DIFFUSION, Case


def _cases() -> list[Case]:
    def case(name: str, kind: str = "ode", schedule: dict | None = None, step: dict | None = None, **config: Any):
        return Case(name + "Scheduler", config, schedule or {}, step or {}, kind)

    three = ("epsilon", "sample", "v_prediction")
    spacings = ("leading", "trailing", "linspace")
    unclipped = {"clip_sample": False}
    zero_snr = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    tables = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    made = []
    for name, kind in (("DDPM", "sde"), ("DDPMParallel", "sde"), ("DDIM", "ode"), ("DDIMParallel", "ode")):
        made += [case(name, kind, prediction_type=p, timestep_spacing="trailing", **unclipped) for p in three]
        made += [case(name, kind, timestep_spacing=s, **unclipped, **STABLE_DIFFUSION) for s in spacings]
        made += [case(name, kind, **zero_snr, **unclipped)]
        made += [case(name, "rough", clip_sample_range=0.8)]
        made += [case(name, "rough", thresholding=True, sample_max_value=1.5)]
    made += [
        case("DDPM", "sde", variance_type="fixed_small_log", **unclipped),
        case("DDPM", "rough", variance_type="fixed_large", **unclipped),
        case("DDPM", "rough", variance_type="learned_range", **unclipped),
        case("DDPM", "rough", variance_type="learned_range", prediction_type="epsilon", thresholding=True),
        case("DDIM", set_alpha_to_one=False, steps_offset=1, **unclipped, **STABLE_DIFFUSION),
        case("DDIM", "sde", step={"eta": 1.0}, **unclipped),
        case("DDPMWuerstchen", "sde"),
        case("DDPMWuerstchen", "sde", scaler=2.0),
        case("DDPMWuerstchen", "sde", scaler=0.5),
        case("UnCLIP", "sde", clip_sample=False),
        case("UnCLIP", "sde", clip_sample=False, prediction_type="sample"),
        case("UnCLIP", "rough", clip_sample=False, variance_type="learned_range"),
        case("UnCLIP", "rough", clip_sample_range=0.8),
        case("RePaint", clip_sample=False),
        case("RePaint", "rough"),
        case("RePaint", "sde", clip_sample=False, eta=0.5),
        case("ConsistencyDecoder", "renoise"),
        case("IPNDM", "rough"),
        case("SCM", "renoise"),
        case("SCM", "renoise", schedule={"max_timesteps": 1.55}, sigma_data=1.0),
        case("Piflow"),
        case("Piflow", shift=1.0, n_grid=4),
    ]
    for name, kind in (("CogVideoXDDIM", "ode"), ("CogVideoXDPM", "sde")):
        made += [case(name, kind, prediction_type=p) for p in three]
        made += [case(name, kind, **zero_snr), case(name, kind, snr_shift_scale=1.0, timestep_spacing="trailing")]
    for name in ("LCM", "TCD"):
        made += [case(name, "renoise", prediction_type=p) for p in three]
        made += [case(name, "renoise", **zero_snr)]
    made += [
        case("LCM", "rough", clip_sample=True, clip_sample_range=0.8),
        case("TCD", "sde", step={"eta": 0.0}),
        case("TCD", "renoise", step={"eta": 1.0}),
    ]
    made += [
        case("PNDM", "rough", skip_prk_steps=skip, prediction_type=p, **STABLE_DIFFUSION)
        for skip in (False, True)
        for p in ("epsilon", "v_prediction")
    ]
    to_one = {"set_alpha_to_one": True, "timestep_spacing": "trailing"}
    made += [case("PNDM", "rough", skip_prk_steps=True, **to_one, **STABLE_DIFFUSION)]
    ve = {
        "EulerDiscrete": ("ode", three),
        "EulerAncestralDiscrete": ("sde", ("epsilon", "v_prediction")),
        "LMSDiscrete": ("ode", three),
        "HeunDiscrete": ("ode", three),
        "KDPM2Discrete": ("ode", ("epsilon", "v_prediction")),
        "KDPM2AncestralDiscrete": ("sde", ("epsilon", "v_prediction")),
        "DPMSolverSDE": ("sde", ("epsilon", "v_prediction")),
    }
    for name, (kind, predictions) in ve.items():
        seeded = {"noise_sampler_seed": 0} if name == "DPMSolverSDE" else {}
        made += [case(name, kind, prediction_type=p, **seeded, **STABLE_DIFFUSION) for p in predictions]
        made += [case(name, kind, timestep_spacing=s, steps_offset=1, **seeded, **STABLE_DIFFUSION) for s in spacings]
        if name != "EulerAncestralDiscrete":
            made += [case(name, kind, **{table: True}, **seeded, **STABLE_DIFFUSION) for table in tables]
    made += [
        case("EulerDiscrete", final_sigmas_type="sigma_min", **STABLE_DIFFUSION),
        case("EulerDiscrete", interpolation_type="log_linear", **STABLE_DIFFUSION),
        case("EulerDiscrete", timestep_type="continuous", use_karras_sigmas=True, prediction_type="v_prediction"),
        case("EulerDiscrete", **zero_snr),
        case("HeunDiscrete", "rough", clip_sample=True, clip_sample_range=0.8, **STABLE_DIFFUSION),
    ]
    for name, kind in (("EDMEuler", "ode"), ("EDMDPMSolverMultistep", "ode"), ("CosineDPMSolverMultistep", "sde")):
        made += [case(name, kind, prediction_type=p, sigma_schedule="exponential") for p in ("epsilon", "v_prediction")]
        made += [case(name, kind, sigma_schedule="karras", sigma_data=1.0)]
    made += [
        case("EDMEuler", final_sigmas_type="sigma_min"),
        case("EDMDPMSolverMultistep", solver_order=3, final_sigmas_type="sigma_min"),
        case("EDMDPMSolverMultistep", "sde", algorithm_type="sde-dpmsolver++"),
        case("EDMDPMSolverMultistep", "rough", thresholding=True, sample_max_value=1.5),
        case("CMStochasticIterative", "renoise", clip_denoised=False),
        case("CMStochasticIterative", "rough", sigma_data=1.0),
    ]
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver"):
        kind = "sde" if name == "SASolver" else "ode"
        made += [case(name, kind, prediction_type=p, **STABLE_DIFFUSION) for p in three]
        made += [case(name, kind, **{table: True}, **STABLE_DIFFUSION) for table in tables]
        made += [case(name, kind, **flow), case(name, kind, flow_shift=3.0, **flow)]
        made += [case(name, "rough", thresholding=True, sample_max_value=1.5, **STABLE_DIFFUSION)]
        if name != "DPMSolverSinglestep":
            made += [case(name, kind, timestep_spacing=s, **STABLE_DIFFUSION) for s in ("leading", "trailing")]
        if name != "SASolver":
            made += [case(name, kind, solver_order=order, **STABLE_DIFFUSION) for order in (1, 3)]
        if name not in ("DEISMultistep", "SASolver"):
            made += [case(name, kind, final_sigmas_type="sigma_min", **STABLE_DIFFUSION)]
    deprecated = {"algorithm_type": "sde-dpmsolver", **STABLE_DIFFUSION}
    made += [
        case("DPMSolverMultistep", use_lu_lambdas=True, **STABLE_DIFFUSION),
        case("DPMSolverMultistep", euler_at_final=True, solver_type="heun", **STABLE_DIFFUSION),
        case("DPMSolverMultistep", algorithm_type="dpmsolver", final_sigmas_type="sigma_min", **STABLE_DIFFUSION),
        case("DPMSolverMultistep", "sde", algorithm_type="sde-dpmsolver++", **STABLE_DIFFUSION),
        case("DPMSolverMultistep", "rough", final_sigmas_type="sigma_min", **deprecated),
        case("DPMSolverMultistep", variance_type="learned_range", **STABLE_DIFFUSION),
        case("DPMSolverMultistep", schedule={"mu": 0.7}, use_dynamic_shifting=True, **flow),
        case("DPMSolverMultistep", **zero_snr),
        case("DPMSolverSinglestep", "sde", algorithm_type="sde-dpmsolver++", **STABLE_DIFFUSION),
        case("DPMSolverSinglestep", lower_order_final=True, solver_order=3, solver_type="heun", **STABLE_DIFFUSION),
        case("UniPCMultistep", predict_x0=False, solver_type="bh1", final_sigmas_type="sigma_min", **STABLE_DIFFUSION),
        case("UniPCMultistep", disable_corrector=[0, 1, 3], **STABLE_DIFFUSION),
        case("UniPCMultistep", schedule={"mu": 0.7}, use_dynamic_shifting=True, shift_terminal=0.02, **flow),
        case("UniPCMultistep", use_karras_sigmas=True, **flow),
        case("UniPCMultistep", **zero_snr),
        case("SASolver", "sde", predictor_order=3, corrector_order=3, **STABLE_DIFFUSION),
        case("SASolver", "rough", algorithm_type="noise_prediction", **STABLE_DIFFUSION),
    ]
    for name, kind in (("FlowMatchEulerDiscrete", "ode"), ("FlowMatchLCM", "renoise")):
        made += [case(name, kind), case(name, kind, shift=3.0)]
        made += [case(name, kind, **{table: True}) for table in tables]
        shifts = ("exponential", "linear")
        made += [case(name, kind, {"mu": 0.7}, use_dynamic_shifting=True, time_shift_type=s) for s in shifts]
        made += [case(name, kind, shift_terminal=0.02)]
    made += [
        case("FlowMatchEulerDiscrete", "renoise", stochastic_sampling=True, shift=3.0),
        case("FlowMatchEulerDiscrete", invert_sigmas=True),
        case("FlowMatchHeunDiscrete"),
        case("FlowMatchHeunDiscrete", shift=3.0),
        case("FlowMapEulerDiscrete"),
        case("FlowMapEulerDiscrete", shift=3.0),
        case("LTXEulerAncestralRF", "sde"),
        case("LTXEulerAncestralRF", "sde", eta=0.5),
        case("LTXEulerAncestralRF", eta=0.0),
        case("MiniMaxH3"),
        case("MiniMaxH3", shift=1.0),
        case("Helios", stages=1),
        case("Helios", stages=1, scheduler_type="euler", shift=3.0),
    ]
    return made


CASES = _cases()
