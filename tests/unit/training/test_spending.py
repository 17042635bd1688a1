"""The budget is asked at each meeting, and for each epoch that begins; what a checkpoint holds is kept."""

from types import SimpleNamespace

import pytest
import torch

from pipelines_lib.cost.meter import Meter
from pipelines_lib.errors import Held
from pipelines_lib.training import spending
from pipelines_lib.training.distributed import World
from pipelines_lib.training.observer import Pace
from pipelines_lib.training.progress import Progress
from pipelines_lib.training.spending import Spending, meter_devices


class Asked:
    """A budget that notes what it is asked, and says no to what it is told to."""

    def __init__(self, refuse: str = "") -> None:
        self.said: list[str] = []
        self._refuse = refuse

    def check(self) -> None:
        self._note("now")

    def check_next(self, seconds: float, what: str) -> None:
        self._note(f"{what}: {seconds:.0f}")

    def _note(self, what: str) -> None:
        self.said.append(what)
        if what == self._refuse:
            raise Held(what)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that stands still until `at` is set."""
    clock = SimpleNamespace(at=0.0)
    monkeypatch.setattr(spending, "time", SimpleNamespace(monotonic=lambda: clock.at))
    return clock


def meetings(observer: Spending, clock: SimpleNamespace, *moments: tuple[int, float]) -> list[Held | None]:
    found = []
    for epoch, clock.at in moments:
        found.append(observer.progress(Pace(epoch, 1, 10, 0.0, 1.0, 1.0, 0.1)))
    return found


def test_an_epoch_that_begins_is_asked_for_by_the_time_of_the_last(clock: SimpleNamespace) -> None:
    budget = Asked()
    observer = Spending(Meter(), budget)  # type: ignore[arg-type]
    observer.started(Progress(), 0)
    meetings(observer, clock, (1, 0), (1, 5), (2, 20), (2, 25), (3, 50))

    assert budget.said == ["now", "now", "epoch 2: 20", "now", "epoch 3: 30"]


def test_half_an_epoch_says_nothing_of_a_whole_one(clock: SimpleNamespace) -> None:
    budget = Asked()
    observer = Spending(Meter(), budget)  # type: ignore[arg-type]
    observer.started(Progress(epoch=2, step_in_epoch=5), 25)
    meetings(observer, clock, (3, 0), (4, 5), (5, 25))

    assert budget.said == ["now", "now", "epoch 5: 20"]


def test_a_no_ends_the_training(clock: SimpleNamespace) -> None:
    observer = Spending(Meter(), Asked("epoch 2: 20"))  # type: ignore[arg-type]
    observer.started(Progress(), 0)
    *before, last = meetings(observer, clock, (1, 0), (2, 20))

    assert before == [None]
    assert isinstance(last, Held)


def test_what_a_checkpoint_holds_is_kept() -> None:
    meter = Meter()
    used = meter.now()
    moment = used.seconds - meter._offset
    Spending(meter, Asked()).saved(moment)  # type: ignore[arg-type]

    assert meter.now().kept_seconds == pytest.approx(used.seconds)


def test_a_rank_on_cuda_holds_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H100 of {device}")
    meter = Meter()
    meter_devices(meter, World(device=torch.device("cpu")))
    assert meter.now().gpu is None

    meter_devices(meter, World(device=torch.device("cuda", 1)))
    assert meter.now().gpu == "NVIDIA H100 of cuda:1"
    assert meter.now().gpu_seconds > 0
