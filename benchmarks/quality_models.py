"""What the models reach on public data sets, beside gradient boosting on the same rows: a Markdown table.

    python benchmarks/quality_models.py [NAME …]

Each file of `../shared/data` is looked at as `sluice new` does; its settings, its transform and the training loop make the model, whose
figures are those of the test rows of three splits. The proposals of `sluice new` were settled before these splits were made. Beside it stands scikit-learn's HistGradientBoosting on the same columns and rows:
of six settings (three with more than two classes), and of all numbers of trees up to 500, the one that is best on the validation rows. Texts come to it as the
first 100 singular vectors of TF-IDF over words, their pairs and runs of three to five letters, and logistic regression on that TF-IDF, which suits it
better, stands for it where it is better on the validation rows.
"""

import csv
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union

from pipelines_lib.config import load_use_case
from pipelines_lib.contracts import DatasetRef
from pipelines_lib.data.sides import TEST, TRAIN, VALIDATION
from pipelines_lib.data.snapshot import Snapshot
from pipelines_lib.data.splitting import with_split
from pipelines_lib.evaluation import metrics
from pipelines_lib.evaluation.holdout import features_of, truth_of
from pipelines_lib.scaffold.plan import Plan, plan
from pipelines_lib.scaffold.settings_text import settings_text
from pipelines_lib.scaffold.survey import survey
from pipelines_lib.training.checkpoints import Checkpoints
from pipelines_lib.training.dataset import Prepared, prepare
from pipelines_lib.training.distributed import World
from pipelines_lib.training.loop import Loop
from pipelines_lib.training.models import build
from pipelines_lib.use_case import UseCase

DATA = Path(__file__).parents[2] / "shared" / "data"
SEEDS = (101, 102, 103)
"""Of the splits, and of what is trained on them."""
SIDES = (TRAIN, VALIDATION, TEST)
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A data set and what is asked of it."""

    title: str
    target: str
    metric: str
    reference: str
    """The figure of the data's README, which is of another split."""
    write: Callable[[Path], Path]
    """Makes one file of what lies in `DATA`, in the folder given, or names the file itself."""
    own_test: int = 0
    """Rows at the end that are the data's own test rows, whatever the split."""
    changes: tuple[tuple[str, str], ...] = ()
    """What a person changes in the settings, as text → text."""


def file(name: str) -> Callable[[Path], Path]:
    """The file as it is."""
    return lambda _: DATA / name


def wine(folder: Path) -> Path:
    """Red and white in one file, with the colour as a column. Of rows that stand there twice one is kept: they would be on both sides of the split."""
    lines = ["colour,acid,volatile,citric,sugar,chlorides,free_sulfur,total_sulfur,density,ph,sulphates,alcohol,quality"]
    for colour in ("red", "white"):
        lines += [f"{colour},{line}" for line in (DATA / f"winequality-{colour}.csv").read_text().split()]
    (folder / "wine.csv").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    return folder / "wine.csv"


def banking(folder: Path) -> Path:
    """Its training rows, then its test rows."""
    first, second = ((DATA / f"banking77_{part}.csv").read_text(encoding="utf-8") for part in ("train", "test"))
    (folder / "banking77.csv").write_text(first.rstrip("\n") + "\n" + second.split("\n", 1)[1], encoding="utf-8")
    return folder / "banking77.csv"


def faq(folder: Path) -> Path:
    """Chinese: whether a question of the developer forum is answered with a link."""
    with (DATA / "faq_zh.csv").open(encoding="utf-8") as source, (folder / "faq_zh.csv").open("w", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["question", "link"])
        writer.writerows([row["question"], "yes" if "http" in row["answer"] else "no"] for row in csv.DictReader(source))
    return folder / "faq_zh.csv"


# Zeros that can be no measurement, as `sluice new` suggests in a comment.
PIMA = (("clean: []", "clean:\n  - to_missing: {c1: [0], c2: [0], c3: [0], c4: [0], c5: [0]}"),)
CASES = {
    "credit": Case("Credit default", "-1", "roc_auc", "0.78", file("credit_default.csv")),
    "ai4i": Case("AI4I 2020", "Machine failure", "roc_auc", "0.98", file("ai4i2020.csv")),
    "ccpp": Case("CCPP", "PE", "rmse", "3.35", file("ccpp.csv")),
    "german": Case("German credit", "-1", "roc_auc", "0.785", file("german.csv")),
    "banking77": Case("banking77", "category", "accuracy", "0.894", banking, own_test=3080),
    "banking77_split": Case("banking77, split anew", "category", "accuracy", "–", banking),
    "pima": Case("Pima diabetes", "-1", "accuracy", "0.76", file("pima_diabetes.csv"), changes=PIMA),
    "wdbc": Case("WDBC", "diagnosis", "roc_auc", "–", file("wdbc.csv")),
    "wine": Case("Wine, as a value", "quality", "rmse", "–", wine),
    "wine_classes": Case(
        "Wine, as classes",
        "quality",
        "accuracy",
        "–",
        wine,
        changes=(
            ("task: regression", "task: multiclass"),
            ("quality: {type: integer", "quality: {type: string"),
            ("metric: rmse", "metric: accuracy"),
        ),
    ),
    "paysim": Case("PaySim, without balances", "isFraud", "roc_auc", "–", file("paysim_sample.csv")),
    "insects": Case("Insects", "-1", "accuracy", "–", file("insects_gradual.csv")),
    "faq_zh": Case("FAQ (Chinese): answered with a link?", "link", "roc_auc", "–", faq),
}


def main(names: list[str]) -> None:
    """One row of the table for each name."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| data | rows | metric | README | gradient boosting | Sluice | difference | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names or CASES:
        case = CASES[name]
        boosted, reached, seconds = [], [], 0.0
        for seed in SEEDS:
            use_case, snapshot = opened(name, case, seed)
            boosted.append(baseline(use_case, snapshot, case.metric, seed))
            started = time.perf_counter()
            reached.append(ours(use_case, snapshot, case.metric, seed))
            seconds += time.perf_counter() - started
        better = [one - other for one, other in zip(reached, boosted, strict=True)]
        n_rows = sum(snapshot.sizes().values())
        print(
            f"| {case.title} | {n_rows:,} | {case.metric} | {case.reference} | {said(boosted)} | {said(reached)} | {said(better)} | {seconds / len(SEEDS):.0f} |",
            flush=True,
        )


def said(figures: list[float]) -> str:
    """Mean and deviation."""
    digits = 2 if np.mean(figures) > 2 else 4
    return f"{np.mean(figures):.{digits}f} ± {np.std(figures, ddof=1):.{digits}f}"


def opened(name: str, case: Case, seed: int) -> tuple[UseCase, Snapshot]:
    """The use case that `sluice new` writes, with another seed of its split and its training, and all rows of the file with their sides."""
    with tempfile.TemporaryDirectory() as temporary:
        path = case.write(Path(temporary))
        planned = plan(path, survey(path, case.target), case.target)
        text = settings_text(planned, name=name, title=name, data=str(path))
        for before, after in case.changes:
            assert before in text, (name, before)
            text = text.replace(before, after)
        folder = Path(temporary) / name
        folder.mkdir()
        (folder / "use_case.yaml").write_text(text, encoding="utf-8")
        use_case = load_use_case(folder)
    seeded = {part: getattr(use_case, part).model_copy(update={"seed": seed}) for part in ("split", "training")}
    use_case = use_case.model_copy(update=seeded)
    rows = labelled(planned, use_case, case)
    ref = DatasetRef(use_case=name, table="labelled", version=0, partitions=("all",), n_rows=rows.num_rows, config_hash="", content_hash="")
    return use_case, Snapshot(ref, rows)


def labelled(planned: Plan, use_case: UseCase, case: Case) -> pa.Table:
    """The file's rows as the data pipeline would label them, in one partition."""
    columns = {column.name: column.values for column in planned.columns if column.name in use_case.features()}
    target = planned.goal.facts
    label = target.values.cast(pa.float64()) if use_case.task == "regression" else target.texts
    ids = pa.array([f"{row:08d}" for row in range(len(label))])
    rows = pa.table({"row_id": ids, **columns, "label": label}).filter(pc.is_valid(label))
    if not case.own_test:
        return with_split(rows, use_case)
    n_train = rows.num_rows - case.own_test
    # Of the training rows, those on the side of validation stop the training; the data's own test rows judge.
    sides = with_split(rows.slice(0, n_train), use_case)["split"].combine_chunks()
    sides = pc.if_else(pc.equal(sides, VALIDATION), VALIDATION, TRAIN)
    return rows.append_column("split", pa.concat_arrays([sides, pa.array([TEST] * case.own_test)]))


def ours(use_case: UseCase, snapshot: Snapshot, metric: str, seed: int) -> float:
    """The figure of such a model."""
    scoring, data = trained(use_case, snapshot, seed)
    test = snapshot.side(TEST)
    inputs = {name: torch.from_numpy(array) for name, array in data.transform.apply(features_of(use_case, test)).items()}
    with torch.no_grad():
        parts = [
            scoring(**{name: tensor[start : start + 4096] for name, tensor in inputs.items()}) for start in range(0, test.num_rows, 4096)
        ]
    return metrics.value(metric, truth_of(use_case, test, data.objective.classes), torch.cat(parts).numpy())


def trained(use_case: UseCase, snapshot: Snapshot, seed: int) -> tuple[torch.nn.Module, Prepared]:
    """A model that is trained as the stage `train` does, in one process, and what it was trained on."""
    world = World()
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(snapshot, use_case, Path(folder))
        torch.manual_seed(seed)
        model = build(use_case, data.transform, data.objective.n_outputs, sample=data.sample, hooks=no_hooks)
        loop = Loop(
            model,
            objective=data.objective,
            train=data.train,
            validation=data.validation,
            settings=use_case.training,
            world=world,
            checkpoints=Checkpoints(folder, fingerprint="quality", keep=1, group=world.group()),
        )
        loop.run()
        model.load_state_dict(loop.weights())
    return data.objective.scoring(model.eval()), data


def no_hooks() -> Any:
    """No data set here has any."""
    raise AssertionError


def baseline(use_case: UseCase, snapshot: Snapshot, metric: str, seed: int) -> float:
    """The figure of gradient boosting, or of logistic regression on texts, whichever the validation rows prefer."""
    tables = {side: snapshot.side(side) for side in SIDES}
    classes = () if use_case.task == "regression" else tuple(snapshot.classes())
    truths = {side: truth_of(use_case, table, classes) for side, table in tables.items()}
    if text := use_case.features("text"):
        sparse, inputs = tfidf(tables, text[0])
        tried = chain(linear(sparse, truths[TRAIN].labels), boosted(inputs, truths[TRAIN].labels, [], seed, n_classes=len(classes)))
    else:
        inputs, categorical = columns_of(use_case, tables)
        tried = boosted(inputs, truths[TRAIN].labels, categorical, seed, n_classes=len(classes))
    losses = ((metrics.value("log_loss" if classes else "rmse", truths[VALIDATION], one[0]), one[1]) for one in tried)
    _, scores = min(losses, key=itemgetter(0))
    return metrics.value(metric, truths[TEST], scores)


def boosted(inputs: dict[str, Any], labels: Any, categorical: list[int], seed: int, *, n_classes: int) -> Iterator[tuple[Scores, Scores]]:
    """Scores of the validation and the test rows, for each setting and number of trees."""
    kind = HistGradientBoostingClassifier if n_classes else HistGradientBoostingRegressor
    several = n_classes > 2  # a tree for each class and round
    for rate, leaves in [(0.1, 15)] if n_classes > 10 else product((0.1,) if several else (0.03, 0.1), (7, 15, 31)):
        model = kind(
            learning_rate=rate,
            max_leaf_nodes=leaves,
            max_iter=100 if several else 500 if rate < 0.1 else 250,
            early_stopping=False,
            categorical_features=categorical or None,
            max_features=0.8,
            random_state=seed,
        ).fit(inputs[TRAIN], labels)
        staged = model.staged_predict_proba if n_classes else model.staged_predict
        for validation, test in zip(staged(inputs[VALIDATION]), staged(inputs[TEST]), strict=True):
            yield (validation, test) if n_classes else (validation[:, None], test[:, None])


def linear(inputs: dict[str, Any], labels: Any) -> Iterator[tuple[Scores, Scores]]:
    """The same of logistic regression, for each strength of its penalty."""
    for strength in (1.0, 10.0, 100.0):
        model = LogisticRegression(C=strength, max_iter=300).fit(inputs[TRAIN], labels)
        yield model.predict_proba(inputs[VALIDATION]), model.predict_proba(inputs[TEST])


def columns_of(use_case: UseCase, tables: dict[str, pa.Table]) -> tuple[dict[str, NDArray[np.float64]], list[int]]:
    """Numbers with NaN, and categories by their places, which are named."""
    names = use_case.features()
    words = {name: sorted(pc.unique(tables[TRAIN][name]).drop_null().to_pylist()) for name in use_case.features("string")}
    assert all(len(mine) < 255 for mine in words.values())

    def column(table: pa.Table, name: str) -> NDArray[np.float64]:
        values = pc.index_in(table[name], value_set=pa.array(words[name])) if name in words else table[name]
        filled: NDArray[np.float64] = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan).to_numpy()
        return filled

    arrays = {side: np.column_stack([column(table, name) for name in names]) for side, table in tables.items()}
    markers = {name: values for step in use_case.clean for name, values in (step.to_missing or {}).items() if name in names}
    for array, (name, values) in product(arrays.values(), markers.items()):
        place = names.index(name)
        array[np.isin(array[:, place], values), place] = np.nan
    return arrays, [names.index(name) for name in words]


def tfidf(tables: dict[str, pa.Table], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of each side the sparse matrix, and its first singular vectors."""
    texts = {side: [text or "" for text in table[name].to_pylist()] for side, table in tables.items()}
    if any("\u4e00" <= letter <= "\u9fff" for letter in "".join(texts[TRAIN][:100])):
        union = make_union(TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True))
    else:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        union = make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2))
    union.fit(texts[TRAIN])
    sparse = {side: union.transform(mine) for side, mine in texts.items()}
    vectors = TruncatedSVD(100, random_state=0).fit(sparse[TRAIN])
    return sparse, {side: vectors.transform(matrix) for side, matrix in sparse.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
