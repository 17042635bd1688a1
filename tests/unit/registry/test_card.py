from pipelines_lib.contracts import DatasetRef
from pipelines_lib.evaluation.evidence import Evidence, Measured
from pipelines_lib.registry.card import model_card
from pipelines_lib.registry.package import Feature, Manifest

EVIDENCE = Evidence(n_rows=120, metric=0.8, comparison=None, champion=None, incomparable=None, champion_end=None)


def test_the_card_says_what_stands_in_for_a_missing_value(make_use_case):
    iqr = {"columns": ["price", "count"], "method": "iqr", "action": "flag"}
    use_case = make_use_case(clean=[{"outliers": iqr}, {"impute": {"price": "mean", "colour": "mode"}}])
    ref = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("2026-01-01",), n_rows=4, config_hash="c", content_hash="d")
    manifest = Manifest(
        use_case="shop", task="binary", classes=("no", "yes"), features=(Feature(name="price", type="number"),), metrics={}, snapshot=ref,
        mlflow_run_id="run",
    )  # fmt: skip

    card = model_card(use_case, manifest, sizes={"train": 3}, settings={}, best_epoch=1, evidence=EVIDENCE)

    assert "A missing `price` counts as the training rows' mean." in card
    assert "A missing `colour` counts as the training rows' mode." in card
    assert "Outliers of `price`, `count` (iqr) are flagged to the model." in card


def test_the_card_says_what_was_examined_and_what_was_not(make_use_case):
    ref = DatasetRef(use_case="shop", table="labelled", version=0, partitions=("2026-01-01",), n_rows=4, config_hash="c", content_hash="d")
    manifest = Manifest(
        use_case="shop", task="binary", classes=("no", "yes"), features=(Feature(name="price", type="number"),), metrics={"roc_auc": 0.8},
        snapshot=ref, operating_point=0.31, mlflow_run_id="run",
    )  # fmt: skip
    slices = (
        Measured(of="town", name="town Bonn", n_rows=90, figure=0.81, lower=0.7, upper=0.9),
        Measured(of="town", name="town Ulm", n_rows=3, figure=None),
    )
    found = EVIDENCE.model_copy(update={"slices": slices, "milliseconds": 0.25, "n_bytes": 2048, "cost": 1.5, "currency": "EUR"})

    card = model_card(make_use_case(), manifest, sizes={"train": 3}, settings={}, best_epoch=1, evidence=found)

    for line in (
        "| slice | town Bonn | 90 | 0.8100 | 0.7000 … 0.9000 |",
        "- Operating point: a score of 0.3100 (the best F1 of the validation rows)",
        "- Graph and transform: 2,048 bytes",
        "- Cost of the run until its evaluation: 1.5 EUR",
        "- The hold-out has 120 rows, so every figure above is uncertain.",
        "- Too few rows to be judged: town Ulm.",
        "- Not examined: worse inputs (`gate.robustness`).",
        "- Not examined: whether groups of people are treated alike (`gate.fairness`).",
    ):
        assert line in card.splitlines()
    assert "parts of the rows" not in card
    again = found.model_copy(update={"milliseconds": 0.5})
    assert model_card(make_use_case(), manifest, sizes={"train": 3}, settings={}, best_epoch=1, evidence=again) == card
