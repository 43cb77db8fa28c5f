"""Settings that every test shares."""

import devices
import pytest
import torch
from devices import Device
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


# Of the session, as Hypothesis wants what all of a test's examples share.
@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Device:
    """The CPU, and then a GPU: every test that takes it runs on either."""
    return devices.find(request.param)


@pytest.fixture(scope="session")
def gpu() -> Device:
    """A GPU, for what there is to say of GPUs alone."""
    return devices.find("cuda")
