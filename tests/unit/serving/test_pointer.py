import pytest

from pipelines_lib.contracts import ModelRef
from pipelines_lib.errors import DataError
from pipelines_lib.serving.pointer import Deployment, Traffic, deployed_version, package_folder, read_pointer, write_pointer


def model(version, package="shop/packages/p"):
    return ModelRef(name="shop", version=version, package=package, run_id="run")


def test_a_candidate_takes_over_and_falls_back(make_use_case, tmp_path):
    use_case = make_use_case()
    first = Deployment.candidate(model(1), use_case, None)
    assert (first.champion, first.rolled_back()) == (None, None)
    assert first.verified().champion == model(1)
    second = Deployment.candidate(model(2), use_case, first.verified())
    assert (second.champion, second.previous.model) == (model(1), model(1))
    assert second.rolled_back().champion == model(1)
    met = second.meeting(Traffic(mode="canary", share=0.1, until=0))
    assert (met.champion, met.verified().traffic, met.rolled_back()) == (model(1), None, second.rolled_back())
    assert Deployment.candidate(model(3), use_case, met).traffic is None
    # A candidate that nobody verified is not what to go back to.
    assert Deployment.candidate(model(3), use_case, second).previous.model == model(1)
    assert (second.keys, second.required, second.key_format) == ({"id": "string"}, ("id",), "%Y-%m-%d")


def test_it_says_what_is_done_to_features_and_keys_about_a_person(make_use_case):
    mine = {"who": {"privacy": "identifier"}, "id": {"privacy": "identifier"}, "colour": {"privacy": "sensitive"}}
    columns = {name: {**column, **mine.get(name, {})} for name, column in make_use_case().model_dump(mode="json")["columns"].items()}
    use_case = make_use_case(columns=columns, privacy={"domain": "trade"})

    deployment = Deployment.candidate(model(1), use_case, None)

    assert deployment.private == {name: use_case.columns[name] for name in ("id", "colour")}
    assert deployment.privacy.domain == "trade"
    assert Deployment.model_validate_json(deployment.model_dump_json()) == deployment


def test_it_knows_the_item_and_the_user_of_recommendations(make_use_case):
    columns = make_use_case().model_dump(mode="json")["columns"]
    columns |= {"user": {"type": "string", "role": "entity", "privacy": "identifier"}, "product": {"type": "integer", "role": "other"}}
    columns = {name: column for name, column in columns.items() if name == "user" or column["role"] != "entity"}
    feature = next(name for name, column in columns.items() if column["role"] == "feature")
    use_case = make_use_case(columns=columns, deployment={"recommend": {"item": "product", "columns": [feature]}})
    deployment = Deployment.candidate(model(1), use_case, None)
    assert deployment.keys == {"id": "string", "product": "integer"}
    assert list(deployment.private) == ["user"]


def test_a_rollback_brings_back_all_that_served(make_use_case, tmp_path):
    served = Deployment.candidate(model(1), make_use_case(title="Old", partition="hour"), None).verified()
    columns = {**make_use_case().model_dump()["columns"], "id": {"type": "integer", "role": "key"}}
    candidate = Deployment.candidate(model(2), make_use_case(columns=columns), served)
    assert (candidate.keys, candidate.required, candidate.title) == ({"id": "integer"}, (), "Shop")
    write_pointer(tmp_path / "shop", candidate)
    assert read_pointer(tmp_path / "shop").rolled_back() == served
    # One step back and no further: a pointer does not grow with every deployment.
    third = Deployment.candidate(model(3), make_use_case(), candidate.verified())
    assert (third.previous.model, third.previous.previous) == (model(2), None)


def test_every_version_that_was_deployed_is_remembered(make_use_case, tmp_path):
    root = tmp_path / "shop"
    assert read_pointer(root) is None
    for version in (1, 2):
        write_pointer(root, Deployment.candidate(model(version), make_use_case(), None))
    assert read_pointer(root).model == model(2)
    assert (deployed_version(root, 1), deployed_version(root, 7)) == (model(1), None)
    write_pointer(root, None)
    assert read_pointer(root) is None
    assert deployed_version(root, 2) == model(2)


def test_what_is_damaged_or_points_elsewhere_is_refused(tmp_path):
    root = tmp_path / "store" / "shop"
    root.mkdir(parents=True)
    (root / "deployment.json").write_text('{"model": 3}')
    with pytest.raises(DataError, match="not a deployment"):
        read_pointer(root)
    with pytest.raises(DataError, match="outside the store"):
        package_folder(root, model(1, "../../etc"))
