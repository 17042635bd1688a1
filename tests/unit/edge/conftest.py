"""A group of devices, and what is released to it."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipelines_lib.edge import release
from pipelines_lib.registry.package import Package

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = (KEY.public_key(),)
ROW = {"amount": 0.5, "age": 30, "member": True, "country": "de"}


@pytest.fixture
def group(tmp_path):
    return tmp_path / "shop" / "edge" / "all"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "device").mkdir()
    return tmp_path / "device"


@pytest.fixture
def package(tmp_path, make_package):
    return Package.open(tmp_path / make_package(tmp_path / "shop"))


@pytest.fixture
def put(tmp_path, make_package, group):
    def put(version=1, share=1.0, precision="fp16", key=KEY):
        package = Package.open(tmp_path / make_package(tmp_path / "shop", bias=float(version)))
        return release.release(package, group, key, version=version, precision=precision, share=share, bound=0.05)[0]

    return put
