"""Every test runs offline, on one thread and with deterministic kernels."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
# What deterministic kernels ask of cuBLAS, where there is a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
