"""Credit risk: a scikit-learn Pipeline over text and number columns of the German credit data (1,000 real applications).

Sex, family and origin (`personal_status_and_sex`, `foreign_worker`) are left out: they are nothing to lend by.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

DATA = Path(__file__).with_name("german_credit.parquet")
LABEL = "creditability"
LEFT_OUT = ["personal_status_and_sex", "foreign_worker"]


def fit(out: str = "out", seed: int = 0) -> list[float]:
    """Writes into `out` the fitted model.skops; test.parquet, 300 rows with their label; and events.parquet, what is then scored.

    Events are the test rows with an `id`, some without an amount (which the imputer fills), and the model's own answers to them
    as `label` and `probability` (of "good"). Returns the loss on the training rows.
    """
    table = pd.read_parquet(DATA).drop(columns=LEFT_OUT)
    numbers = [name for name in table if table[name].dtype.kind in "if"]
    texts = [name for name in table if name not in (*numbers, LABEL)]
    table = table.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys([*texts, LABEL], "object"))
    training, test = train_test_split(table, test_size=300, random_state=seed, stratify=table[LABEL])
    prepared = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            ("texts", OneHotEncoder(handle_unknown="ignore"), texts),
        ]
    )
    model = make_pipeline(prepared, LogisticRegression(C=0.3, max_iter=1000))
    model.fit(training.drop(columns=LABEL), training[LABEL])

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(model, folder / "model.skops")
    test.to_parquet(folder / "test.parquet", index=False)
    events = test.drop(columns=LABEL).reset_index(drop=True)
    events.loc[::10, "credit_amount"] = None
    events.loc[5, "purpose"] = "a purpose that nobody had so far"
    answers = {"label": model.predict(events), "probability": model.predict_proba(events)[:, list(model.classes_).index("good")]}
    events.assign(id=range(len(events)), **answers).to_parquet(folder / "events.parquet", index=False)
    print(f"accuracy {model.score(test.drop(columns=LABEL), test[LABEL]):.3f} on {len(test)} rows")
    return [float(1 - model.score(training.drop(columns=LABEL), training[LABEL]))]


if __name__ == "__main__":
    fit(str(Path(__file__).with_name("out")))
