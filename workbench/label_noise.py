"""Labels that the other rows do not bear out, after confident learning (Northcutt, Jiang and Chuang, 2021).

A wrong value is found out: it was not said. An answer without values ("nothing fits") has nothing in it to be checked, and a
teacher that is at a loss gives it too. What the other rows tell of the words in its input is evidence: for each label, a
logistic regression on words and letters, trained on the other folds, says how likely the label is here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

FOLDS = 5
FEW = 10  # rows of a label, at least: two a fold


class Doubt(NamedTuple):
    """Row `place`: by the other folds the label asked about has probability `sure`, the likeliest `other` one `likely`."""

    place: int
    sure: float
    other: str
    likely: float


def doubts(texts: Sequence[str], labels: Sequence[frozenset[str]], asked: str, margin: float) -> list[Doubt]:
    """The rows labelled `asked` where that is not likelier than each other label by at least `margin`, in probability.

    `texts` and `labels` are of all rows. A label of fewer than ten rows says nothing; where `asked` is one, no row is doubted.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_union
    from threadpoolctl import threadpool_limits

    names = sorted({name for row in labels for name in row})
    told = {name: np.array([name in row for row in labels]) for name in names}
    names = [name for name in names if FEW <= told[name].sum() <= len(labels) - FEW]
    if asked not in names or len(names) < 2:
        return []
    words = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    features: Any = make_union(words, letters).fit_transform(texts)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(1):  # the vectors are short: several threads take four times as long
        likely = {
            name: cross_val_predict(
                LogisticRegression(C=10.0, max_iter=300), features, told[name], cv=folds, method="predict_proba"
            )[:, 1]
            for name in names
        }
    others = [name for name in names if name != asked]
    found = []
    for place in np.flatnonzero(told[asked]):
        other = max(others, key=lambda name: likely[name][place])
        sure, against = float(likely[asked][place]), float(likely[other][place])
        if sure - against < margin:
            found.append(Doubt(int(place), sure, other, against))
    return found
