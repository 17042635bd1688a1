"""A user's own file, from `sluice new` to a monitored service, by hand: real processes and torchrun, no Airflow."""

import json
import random
from collections.abc import Iterator

import httpx
import pytest

from .conftest import Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("by_hand")
    shell = Shell(folder)
    rng = random.Random(3)
    lines = ["Customer ID,Limit (NT$),Job,late.payments,default next month"]
    for number in range(2800):
        late, limit, job = rng.randrange(6), rng.randrange(10, 500) * 1000, rng.choice(["clerk", "farmer", "工程师", ""])
        lines.append(f"C{number:05d},{limit},{job},{late},{int(rng.random() < 0.05 + 0.13 * late)}")
    (folder / "credit.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shell("new", "credit", "--data", str(folder / "credit.csv"), "--target", "default next month")
    yield shell
    shell("down")


@pytest.mark.timeout(600)
def test_from_a_file_to_a_monitored_service(shell: Shell) -> None:
    assert "✓ credit" in shell("check", "credit")
    shell("run", "credit", "data", "--partition", "2026-01-01")
    with shell.warm():
        for day in range(2, 6):
            shell("run", "credit", "data", "--partition", f"2026-01-{day:02d}")
        output = shell("run", "credit", "training", "--partition", "2026-01-05", "--param", "epochs=3")
        assert "── verify" in output
        root = shell.home / "store" / "credit"
        deployment = json.loads((root / "status" / "deployment.json").read_text(encoding="utf-8"))
        assert deployment["model_version"] == 1
        assert deployment["metrics"]["roc_auc"] > 0.65

        assert "200 rows answered" in shell.python(
            "-m", "pipelines_lib.serving.replay", "--use-case", "credit", "--partition", "2026-01-05"
        )
        shell("run", "credit", "monitoring", "--partition", "2026-01-05")
        status = json.loads(shell("status", "--json"))
        assert status["use_cases"]["credit"]["monitoring"]["decision"] == "hold"
        assert httpx.get(f"{deployment['url']}/v2/health/ready", timeout=10).status_code == httpx.codes.OK


@pytest.mark.timeout(300)
def test_mistakes_end_with_a_sentence(shell: Shell) -> None:
    assert "nothing of fresh is deployed yet" in _fresh(shell)
    assert "there is no use case 'nobody'" in shell("run", "nobody", "data", "--partition", "2026-01-01", code=2)
    assert "'01/02/2026' is not a partition" in shell("run", "credit", "data", "--partition", "01/02/2026", code=2)
    assert "data has no stage 'train'" in shell("run", "credit", "data", "--partition", "2026-01-01", "--stage", "train", code=2)
    outside = shell("run", "credit", "data", "--partition", "2026-03-01", code=2)
    assert "2026-01-14" in outside
    assert "Traceback" not in outside


def _fresh(shell: Shell) -> str:
    """What `sluice serve` says of a use case that was never trained."""
    text = (shell.use_cases / "credit" / "use_case.yaml").read_text(encoding="utf-8")
    (shell.use_cases / "fresh").mkdir()
    (shell.use_cases / "fresh" / "use_case.yaml").write_text(text.replace("name: credit", "name: fresh", 1), encoding="utf-8")
    return shell("serve", "fresh", code=2)
