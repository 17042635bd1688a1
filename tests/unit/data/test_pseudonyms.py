"""Keyed hashes: HMAC as the standard has it, one name a person, and a key that is not lost or changed in silence."""

import hashlib
import hmac
import json
import pickle
import threading

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines_lib.data.pseudonyms import LENGTH, Pseudonyms, _hmac, hashed_under, known_secret, pseudonyms
from pipelines_lib.errors import ConfigError

SECRET = "0123456789abcdef" * 4
NAMES = Pseudonyms.under(SECRET, "shop")
TEXT = st.text(st.characters(codec="utf-8"))
COLUMNS = {
    "who": {"type": "string", "role": "entity", "privacy": "identifier"},
    "price": {"type": "number"},
    "action": {"type": "string", "role": "label"},
}


@given(st.binary(max_size=64), st.binary(max_size=300))
def test_the_quick_hmac_is_hmac(key, message):
    assert _hmac(key)(message) == hmac.digest(key, message, hashlib.sha256)


@given(st.lists(st.none() | TEXT, max_size=20))
def test_the_same_text_has_the_same_pseudonym_and_others_another(texts):
    found = NAMES.of(pa.array(texts, pa.string())).to_pylist()

    assert [name is None for name in found] == [text is None for text in texts]
    assert len(set(found)) == len(set(texts))
    assert all(name is None or (len(name) == LENGTH and name not in texts) for name in found)
    assert NAMES.of(pa.array(found, pa.string())).to_pylist() == found


@given(TEXT)
def test_another_key_or_domain_has_nothing_in_common(text):
    given = pa.array([text])

    assert len({n.of(given)[0].as_py() for n in (NAMES, Pseudonyms.under(SECRET, "bank"), Pseudonyms.under(SECRET[1:], "shop"))}) == 3


def test_a_pseudonym_is_the_same_for_good():
    # Tables outlive versions of this code: these bytes may never change.
    assert NAMES.of(pa.array(["A1"])).to_pylist() == ["ed5f2c70c5e678625e22988c91b2b153"]
    assert NAMES.fingerprint == "b75b9bbd"


@pytest.mark.parametrize("text", ["0" * 32, "d41d8cd98f00b204e9800998ecf8427e", "ABCDEF" * 5 + "00", "1 " * 16, "é" * 16])
def test_what_only_looks_like_a_pseudonym_is_hashed(text):
    assert NAMES.of(pa.array([text]))[0].as_py() != text


def test_a_pseudonym_of_another_key_is_hashed_again():
    other = Pseudonyms.under(SECRET, "bank").of(pa.array(["A1"]))

    assert NAMES.of(other).to_pylist() != other.to_pylist()


def test_printing_shows_no_key():
    assert "_values" not in repr(NAMES)
    assert NAMES._values.hex() not in repr(NAMES)
    assert pickle.loads(pickle.dumps(NAMES)) == NAMES


def test_on_this_machine_a_key_is_made_once_for_the_owner_alone(sandbox, make_use_case, tmp_path):
    use_case = make_use_case(columns=COLUMNS)
    first = pseudonyms(use_case, sandbox.project, "local", tmp_path / "shop")
    path = sandbox.project.home / "secrets" / "sluice_privacy.key"

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert len(bytes.fromhex(path.read_text())) == 32
    assert pseudonyms(use_case, sandbox.project, "local", tmp_path / "shop") == first


def test_jobs_that_start_at_once_agree_on_one_key(sandbox, make_use_case, tmp_path):
    use_case = make_use_case(columns=COLUMNS)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(pseudonyms(use_case, sandbox.project, "local", tmp_path / "shop"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len({names.fingerprint for names in found}) == 1


def test_elsewhere_a_missing_key_is_told_with_the_remedy(sandbox, make_use_case, tmp_path):
    with pytest.raises(
        ConfigError, match=r"columns who are hashed under a secret key, and there is none\. .*export SLUICE_CONN_SLUICE_PRIVACY"
    ):
        pseudonyms(make_use_case(columns=COLUMNS), sandbox.project, "cluster", tmp_path / "shop")
    assert not (sandbox.project.home / "secrets").exists()


def test_the_connections_password_is_the_key(sandbox, make_use_case, tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICE_CONN_SLUICE_PRIVACY", json.dumps({"conn_type": "generic", "password": SECRET}))

    assert pseudonyms(make_use_case(columns=COLUMNS), sandbox.project, "cluster", tmp_path / "shop") == NAMES


def test_a_key_that_can_be_guessed_is_refused_and_not_shown(sandbox, monkeypatch):
    monkeypatch.setenv("SLUICE_CONN_SLUICE_PRIVACY", json.dumps({"conn_type": "generic", "password": "hunter2"}))

    with pytest.raises(ConfigError, match="has 7 characters; one that can't be guessed") as caught:
        known_secret("sluice_privacy", sandbox.project.home)
    assert "hunter2" not in str(caught.value)


def test_another_key_than_the_tables_is_refused(sandbox, make_use_case, tmp_path, monkeypatch):
    root = tmp_path / "shop"
    pseudonyms(make_use_case(columns=COLUMNS), sandbox.project, "local", root)
    before = hashed_under(root)
    monkeypatch.setenv("SLUICE_CONN_SLUICE_PRIVACY", json.dumps({"conn_type": "generic", "password": SECRET}))

    with pytest.raises(ConfigError, match=r"give that key .* back, or, to change it for good, remove .*privacy\.json"):
        pseudonyms(make_use_case(columns=COLUMNS), sandbox.project, "local", root)
    assert hashed_under(root) == before


def test_use_cases_of_one_domain_name_a_person_alike(sandbox, make_use_case, tmp_path):
    names = [
        pseudonyms(make_use_case(name=name, columns=COLUMNS, privacy={"domain": domain}), sandbox.project, "local", tmp_path / name)
        .of(pa.array(["A1"]))
        .to_pylist()
        for name, domain in (("shop", "trade"), ("bank", "trade"), ("clinic", None))
    ]

    assert names[0] == names[1] != names[2]


def test_without_identifiers_no_key_is_needed(sandbox, make_use_case, tmp_path):
    assert pseudonyms(make_use_case(), sandbox.project, "cluster", tmp_path / "shop") is None
