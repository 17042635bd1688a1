"""A device has numpy, ONNX Runtime and cryptography: pull, verify and predict work where nothing else can be imported."""

import json
import subprocess
import sys
from pathlib import Path

from pipelines_lib.edge.release import release
from pipelines_lib.registry.package import Package
from tests.unit.edge.conftest import KEY, ROW

ROOT = Path(__file__).parents[3]
DEVICE = """
import sys
from importlib.abc import MetaPathFinder

class Bare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if "." not in name and name not in sys.stdlib_module_names | set(sys.argv[4].split()):
            raise ModuleNotFoundError(f"a device has no {name}")

sys.meta_path.insert(0, Bare())
from pipelines_lib.edge.__main__ import main

group, folder, rows = sys.argv[1:4]
key = ["--folder", folder + "/device", "--key", folder + "/public"]
done = [main(["pull", group, "--device", "d1", *key]), main(["verify", *key]), main(["predict", rows, *key]), main(["status", "shop"])]
sys.exit(done != [0, 0, 0, 2])
"""
HAS = "pipelines_lib numpy onnxruntime cryptography _cffi_backend"


def test_a_device_pulls_verifies_and_predicts_where_nothing_else_is_installed(tmp_path, make_package):
    package, group = Package.open(tmp_path / make_package(tmp_path / "shop")), tmp_path / "shop" / "edge" / "all"
    name, _ = release(package, group, KEY, version=1, precision="int8", share=1, bound=0.05)
    (tmp_path / "public").write_text(KEY.public_key().public_bytes_raw().hex())
    (tmp_path / "rows").write_text(json.dumps(ROW))
    command = [sys.executable, "-c", DEVICE, str(group), str(tmp_path), str(tmp_path / "rows"), HAS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("sluice: `status` is for who operates Sluice, not for a device (")
    pulled, verified, answered = map(json.loads, done.stdout.splitlines())
    assert [pulled["bundle"], verified["version"]] == [name, 1]
    assert abs(answered["scores"][1] - package.predict({name: [value] for name, value in ROW.items()})[0, 1]) < 0.05
