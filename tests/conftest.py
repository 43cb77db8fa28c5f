"""Settings that every test shares."""

import pytest
import torch
from hypothesis import HealthCheck, settings

# Examples are drawn the same way in every run, so that a failure is a failure for everyone.
settings.register_profile(
    "mabm",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mabm")


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run() -> None:
    torch.manual_seed(0)
