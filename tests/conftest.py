"""Every test runs on the CPU, offline, on one thread and with deterministic kernels."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
