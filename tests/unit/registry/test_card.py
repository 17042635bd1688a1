from pipelines_lib.contracts import DatasetRef
from pipelines_lib.registry.card import model_card
from pipelines_lib.registry.package import Feature, Manifest


def test_the_card_says_what_stands_in_for_a_missing_value(make_use_case):
    iqr = {"columns": ["price", "count"], "method": "iqr", "action": "flag"}
    use_case = make_use_case(clean=[{"outliers": iqr}, {"impute": {"price": "mean", "colour": "mode"}}])
    ref = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("2026-01-01",), n_rows=4, config_hash="c", content_hash="d")
    manifest = Manifest(
        use_case="shop", task="binary", classes=("no", "yes"), features=(Feature(name="price", type="number"),), metrics={}, snapshot=ref,
        mlflow_run_id="run",
    )  # fmt: skip

    card = model_card(use_case, manifest, sizes={"train": 3}, settings={}, best_epoch=1)

    assert "A missing `price` counts as the training rows' mean." in card
    assert "A missing `colour` counts as the training rows' mode." in card
    assert "Outliers of `price`, `count` (iqr) are flagged to the model." in card
