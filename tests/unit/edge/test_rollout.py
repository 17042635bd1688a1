"""Who gets a candidate, whatever an operator does in whatever order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines_lib.edge.rollout import NOTHING, meant_for, offered, taken_back, widened, within
from pipelines_lib.errors import BadInput

DEVICES = [f"d-{i}" for i in range(60)]
shares = st.floats(0, 1)
names = st.integers(0, 10**9).map(str)
stable = settings(derandomize=True, deadline=None)


def fleet(pointer):
    return {device: meant_for(device, pointer) for device in DEVICES}


@stable
@given(names, names, shares, shares)
def test_a_device_of_a_share_is_in_every_wider_one(device, bundle, one, other):
    narrow, wide = sorted((one, other))
    assert within(device, bundle, wide) or not within(device, bundle, narrow)
    assert within(device, bundle, 1.0)
    assert not within(device, bundle, 0.0)


@settings(stable, max_examples=30)
@given(names, shares)
def test_a_share_of_the_devices_is_about_that_share(bundle, share):
    n_devices = 2000
    found = sum(within(f"device {i}", bundle, share) for i in range(n_devices))
    assert abs(found - share * n_devices) <= 5 * (share * (1 - share) * n_devices) ** 0.5 + 1


@stable
@given(
    st.lists(
        st.one_of(st.tuples(st.just("offer"), st.sampled_from("abcd"), shares), st.tuples(st.just("widen"), shares), st.just(("back",)))
    )
)
def test_whatever_an_operator_does_a_wider_share_takes_nobody_back_and_a_roll_back_takes_everybody(steps):
    pointer = offered(NOTHING, "first", 0.1)
    assert set(fleet(pointer).values()) == {"first"}
    for step, *arguments in steps:
        before, had = fleet(pointer), dict(pointer)
        try:
            pointer = {"offer": offered, "widen": widened, "back": taken_back}[step](pointer, *arguments)
        except BadInput:
            assert had["candidate"] is None
            assert pointer == had
            continue
        now = fleet(pointer)
        assert set(now.values()) <= {pointer["stable"], pointer["candidate"]}
        if step == "back":
            assert set(now.values()) == {had["stable"] if had["candidate"] else had["previous"]}
        elif step == "widen" and arguments[0] >= had["share"]:
            assert all(now[device] == had["candidate"] for device in DEVICES if before[device] == had["candidate"])
        elif step == "offer" and arguments[1] >= 1 and had["stable"] != arguments[0]:  # made again, a release takes nothing back
            assert set(now.values()) == {arguments[0]}


def test_what_an_operator_cannot_do_is_said():
    with pytest.raises(BadInput, match="no candidate to widen; release one"):
        widened(offered(NOTHING, "a", 1), 0.5)
    with pytest.raises(BadInput, match="nothing to go back to; release another version"):
        taken_back(offered(NOTHING, "a", 1))
