"""What a careful engineer writes by hand, without any framework, for the work that `bench_data.py` gives the data pipeline.

    python benchmarks/baseline_pandas.py INPUT.csv OUTPUT_FOLDER [--gx]

Reads the file as text (a price that is no number must be kept to be looked at), keeps it, casts, checks every rule, sets broken
rows aside with every reason, cleans, labels, splits by user, writes. With `--gx` Great Expectations checks the rules instead, the
way its documentation shows: one frame, one suite, complete results.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

NUMBERS = ["price", "discount", "hour", "clicks"]
LABELS = {"view": "passed", "skip": "passed", "click": "engaged", "buy": "engaged"}


def main(source: Path, target: Path, gx: bool) -> None:
    """raw → quarantine, clean, labelled."""
    target.mkdir(parents=True, exist_ok=True)
    raw = pd.read_csv(source, dtype=str, engine="pyarrow")
    raw.insert(0, "row_id", "2026-01-01:" + pd.Series(np.arange(2, len(raw) + 2)).astype(str).str.zfill(9))
    raw.to_parquet(target / "raw.parquet", index=False)

    rows, wrong = typed(raw)
    wrong |= by_great_expectations(rows) if gx else by_hand(rows)
    broken = np.logical_or.reduce(list(wrong.values()))
    quarantine = raw[broken]
    reasons = pd.DataFrame({reason: mask[broken] for reason, mask in wrong.items()})
    pd.DataFrame(
        {
            "row_id": quarantine["row_id"].to_numpy(),
            "reasons": [list(reasons.columns[flags]) for flags in reasons.to_numpy()],
            "raw": [json.dumps(row, ensure_ascii=False) for row in quarantine.to_dict("records")],
        }
    ).to_parquet(target / "quarantine.parquet", index=False)

    clean = rows[~broken].drop_duplicates("event_id")
    clean["price"] = clean["price"].clip(0.01, 5000)
    clean.to_parquet(target / "clean.parquet", index=False)
    clean["label"] = clean["action"].map(LABELS)
    share = pd.util.hash_array(clean["user_id"].to_numpy()) / 2**64
    clean["split"] = np.select([share < 0.2, share < 0.35], ["test", "validation"], "train")
    clean.to_parquet(target / "labelled.parquet", index=False)


def typed(raw: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """(typed rows, reason to the rows where a text is no value of its column)."""
    rows, wrong = raw.copy(), {}
    for name in NUMBERS:
        rows[name] = pd.to_numeric(raw[name], errors="coerce")
        wrong[f"type: {name}"] = (rows[name].isna() & raw[name].notna()).to_numpy()
    rows["event_time"] = pd.to_datetime(raw["event_time"], format="ISO8601", errors="coerce")
    wrong["type: event_time"] = (rows["event_time"].isna() & raw["event_time"].notna()).to_numpy()
    for name in ("event_id", "user_id", "device", "country", "action"):
        rows[name] = raw[name].str.strip()
    return rows, wrong


def by_hand(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Reason to the rows that break a rule."""
    wrong = {
        "event_id is missing": rows["event_id"].isna(),
        "user_id": rows["user_id"].notna() & ~rows["user_id"].str.fullmatch(r"u\d{7}").astype(bool),
        "action": rows["action"].notna() & ~rows["action"].isin(list(LABELS)),
        "price": rows["price"].notna() & ~rows["price"].between(0.01, 100000),
        "discount": rows["discount"].notna() & ~rows["discount"].between(0, 1),
        "hour": rows["hour"].notna() & ~rows["hour"].between(0, 23),
    }
    if len(rows) < 1000:
        raise SystemExit("too few rows")
    masks = {reason: mask.to_numpy(dtype=bool) for reason, mask in wrong.items()}
    if (share := np.logical_or.reduce(list(masks.values())).mean()) > 0.05:
        raise SystemExit(f"{share:.1%} of the rows are broken")
    return masks


def by_great_expectations(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The same rules as a suite."""
    import great_expectations as gx  # noqa: PLC0415 - the script does without where it is not asked
    import great_expectations.expectations as gxe  # noqa: PLC0415

    context = gx.get_context(mode="ephemeral")
    suite = gx.ExpectationSuite(name="quality")
    for expectation in (
        gxe.ExpectColumnValuesToNotBeNull(column="event_id"),
        gxe.ExpectColumnValuesToMatchRegex(column="user_id", regex=r"^u\d{7}$"),
        gxe.ExpectColumnValuesToBeInSet(column="action", value_set=list(LABELS)),
        gxe.ExpectColumnValuesToBeBetween(column="price", min_value=0.01, max_value=100000),
        gxe.ExpectColumnValuesToBeBetween(column="discount", min_value=0, max_value=1),
        gxe.ExpectColumnValuesToBeBetween(column="hour", min_value=0, max_value=23),
        gxe.ExpectTableRowCountToBeBetween(min_value=1000),
    ):
        suite.add_expectation(expectation)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("events")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": rows})
    report = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    wrong = {}
    for result in report.results:
        mask = np.zeros(len(rows), bool)
        mask[result.result.get("unexpected_index_list") or []] = True
        wrong[str(result.expectation_config.type)] = mask
    return wrong


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "--gx" in sys.argv)
