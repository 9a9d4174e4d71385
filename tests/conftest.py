"""Settings of the test process, made before anything imports torch, transformers or ray."""

import os

import hypothesis

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else ray.init writes a token to ~/.ray

hypothesis.settings.register_profile("recdiv", deadline=None, derandomize=True)
hypothesis.settings.load_profile("recdiv")
