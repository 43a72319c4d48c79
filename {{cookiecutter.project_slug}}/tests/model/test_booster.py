"""Does a stored model answer as LightGBM's own package, to the bit, and does a damaged one do no harm?"""

import copy
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from flight_delays import booster
from flight_delays.booster import Booster, Floats
from flight_delays.errors import InputError

Both = Callable[..., tuple[Booster, Any]]
OBJECTIVES: dict[str, dict[str, Any]] = {
    "binary": {},
    "multiclass": {"num_class": 3},
    "multiclassova": {"num_class": 3},
    "regression": {},
    "poisson": {},
    "regression_l1": {"linear_tree": False, "boosting": "dart"},
}
ROWS = 400


def made(rows: int = ROWS) -> Floats:
    """Make numbers, categories and missing values."""
    drawn = np.random.default_rng(0)
    X = drawn.normal(size=(rows, 6))
    X[:, 2] = drawn.integers(0, 40, rows)
    X[:, 5] = 1
    X[drawn.random(X.shape) < 0.1] = np.nan
    return X


@pytest.fixture
def both(tmp_path: Path) -> Both:
    """Train a model, and give it as read from its file, and as LightGBM has it."""

    def make(objective: str, **settings: Any) -> tuple[Booster, Any]:
        X = made()
        score = np.nan_to_num(X[:, 0] + X[:, 1] * X[:, 3]) + 2 * (np.nan_to_num(X[:, 2]) % 3)
        kinds = {"binary": 2, "multiclass": 3, "multiclassova": 3}
        y = score.argsort().argsort() * kinds[objective] // ROWS if objective in kinds else np.abs(score)
        data = lightgbm.Dataset(X, y, categorical_feature=[2])
        chosen = {"objective": objective, "verbose": -1, "num_leaves": 7, "min_data_per_group": 5, "num_threads": 1}
        theirs = lightgbm.train(chosen | OBJECTIVES[objective] | settings, data, 9)
        theirs.save_model(tmp_path / "model.txt")
        return Booster(tmp_path / "model.txt"), theirs

    return make


def same(ours: Floats, theirs: Floats) -> bool:
    """Whether two outputs are equal to the bit."""
    return ours.shape == theirs.shape and ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_all_answers_are_those_of_the_package(both: Both, objective: str, tmp_path: Path) -> None:
    ours, theirs = both(objective)
    X = made()
    for rows in (
        X,
        X[:1],
        X[7:8],
        X[:63],
        X[:64],
        np.asfortranarray(X),
        X[::3],
        X.astype(np.float32).astype(np.float64),
    ):
        assert same(ours.predict(rows), theirs.predict(rows))
        assert same(ours.predict(rows, raw_score=True), theirs.predict(rows, raw_score=True))
        wanted = theirs.predict(rows, pred_contrib=True)
        assert same(ours.predict(rows, pred_contrib=True), wanted)
    assert all(same(ours.predict(X[place : place + 1]), theirs.predict(X[place : place + 1])) for place in range(50))
    assert ours.predict(X[:0]).shape[0] == 0
    assert ours.num_trees() == theirs.num_trees()
    assert same(ours.feature_importance("gain"), theirs.feature_importance("gain"))
    ours.save_model(tmp_path / "again.txt")
    assert same(Booster(tmp_path / "again.txt").predict(X), theirs.predict(X))


def test_a_model_goes_to_another_process_of_the_project_and_answers_alike(both: Both) -> None:
    ours, theirs = both("binary")
    received = copy.deepcopy(ours)  # by the same way as from process to process
    del ours
    assert same(received.predict(made()), theirs.predict(made()))
    assert same(received.predict(made()[:1]), theirs.predict(made()[:1]))


@pytest.mark.parametrize(
    "settings",
    [
        {"linear_tree": True},
        {"min_data_in_leaf": ROWS},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    ],
)
def test_other_kinds_of_trees_are_read_too(both: Both, settings: dict[str, Any]) -> None:
    ours, theirs = both("regression", **settings)
    assert same(ours.predict(made()), theirs.predict(made()))
    assert same(ours.predict(made(1)), theirs.predict(made(1)))


def test_several_threads_get_their_own_answers(both: Both) -> None:
    ours, theirs = both("multiclass")
    X = made()
    wanted, wrong = theirs.predict(X), []

    def ask(start: int) -> None:
        for place in range(start, start + 300):
            row = place % ROWS
            if not same(ours.predict(X[row : row + 1]), wanted[row : row + 1]) or not same(ours.predict(X), wanted):
                wrong.append(row)

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(0, 80, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


MANY_AT_ONCE = f"""
import sys, threading, time
from pathlib import Path
import numpy as np
from {booster.__name__} import Booster
path, end, wrong = Path(sys.argv[1]), time.monotonic() + 6, []
model = Booster(path)
X = np.random.default_rng(0).normal(size=(400, model.features))
wanted = np.array([model.predict(X[place : place + 1])[0] for place in range(400)])
def ask(rows):
    while time.monotonic() < end:
        if not np.array_equal(model.predict(X[:rows]), wanted[:rows]):
            wrong.append(rows)
def load():
    while time.monotonic() < end:
        Booster(path)
threads = [threading.Thread(target=ask, args=(rows,)) for rows in (10, 20, 64, 400)]
threads.append(threading.Thread(target=load))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
"""


def test_few_rows_many_rows_and_new_models_do_not_disturb_each_other(both: Both, tmp_path: Path) -> None:
    """The library's buffers are sized by a number of threads that all calls of a process share."""
    both("binary")
    command = [sys.executable, "-c", MANY_AT_ONCE, str(tmp_path / "model.txt")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_rows_of_another_width_are_refused(both: Both) -> None:
    ours, _ = both("binary")
    for wrong in (made()[:, :5], made()[0], np.ones((1, 7)), np.ones((1, 6, 1))):
        with pytest.raises(ValueError, match=r"the model has 6 features, the rows are of shape \("):
            ours.predict(wrong)
    with pytest.raises(ValueError, match="'split' is not known here"):
        ours.feature_importance("split")


@pytest.mark.parametrize("text", [b"", b"tree\n", b"no model", b"\xff\x00" * 50, b"tree_sizes=x\nmax_feature_idx=0"])
def test_a_file_that_is_no_model_is_refused_in_one_line(
    text: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.txt").write_bytes(text)
    with pytest.raises(InputError, match=r"model\.txt is no .*LightGBM model \(.*\): train again") as refusal:
        Booster(tmp_path / "model.txt")
    assert len(str(refusal.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")  # the library has a voice of its own
    with pytest.raises(InputError, match="No such file"):
        Booster(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("pattern", "put", "words"),
    [
        (rb"leaf_value=(\S+)", b"nan", "tree 0: its leaves are not all finite numbers"),
        (rb"leaf_value=(\S+)", b"inf", "tree 0: its leaves are not all finite numbers"),
        (rb"leaf_value=(\S+)", b"", "tree 0: its leaves are not all finite numbers"),
        (rb"left_child=(.+)", b"99 1 2 3 4 5", "tree 0: its branches do not lead to each leaf once"),
        (rb"left_child=(.+)", b"0 1 2 3 4 5", "tree 0: its branches do not lead to each leaf once"),
        (rb"right_child=(.+)", b"-99 -1 -2 -3 -4 5", "tree 0: "),
        (rb"split_feature=(.+)", b"0 1 0 9 0 0", "tree 0: it asks for a feature that is not there"),
        (rb"split_feature=(.+)", b"0", "tree 0: its splits and leaves are not complete"),
        (rb"cat_boundaries=(\S)", b"1", "its categories are not complete"),
        (rb"leaf_count=(\S)", b"x", "could not convert|invalid literal"),
        (rb"internal_value=(\S)", b"=", "could not convert"),
        (rb"tree_sizes=(\S+)", b"5", "it has no num_leaves"),
        (rb"\n(Tree=1)", b"Tree=7", "tree 1 is not where it should be"),
        (rb"(end of trees)", b"x", "its trees do not end where they should"),
    ],
)
def test_a_damaged_tree_is_refused_by_its_number(
    both: Both, tmp_path: Path, pattern: bytes, put: bytes, words: str
) -> None:
    both("binary", num_leaves=7)
    path = tmp_path / "model.txt"
    text = path.read_bytes()
    found = re.search(pattern, text)
    assert found
    put = put.ljust(len(found[1]))[: len(found[1])]  # of the same length, so that all else is where it was
    path.write_bytes(text[: found.start(1)] + put + text[found.end(1) :])
    with pytest.raises(InputError, match=words):
        Booster(path)


READ_ALL = f"""
import sys
from pathlib import Path
import numpy as np
from {booster.__name__} import Booster
from {InputError.__module__} import InputError
for path in sorted(Path(sys.argv[1]).glob("*.txt")):
    try:
        model = Booster(path)
        model.predict(np.ones((1, model.features)))
        model.predict(np.ones((100, model.features)), pred_contrib=True)
    except InputError as error:
        print("refused")
"""


def test_no_damage_takes_the_process_with_it(both: Both, tmp_path: Path) -> None:
    both("binary")
    text, drawn = (tmp_path / "model.txt").read_bytes(), random.Random(0)
    for number in range(300):
        changed = bytearray(text)
        for _ in range(drawn.choice([1, 1, 5])):
            changed[drawn.randrange(len(text) * 9 // 10)] = drawn.choice(b"0123456789- .=\nxe")
        whole = drawn.random() < 0.7
        (tmp_path / f"{number}.txt").write_bytes(changed if whole else text[: drawn.randrange(len(text) * 9 // 10)])
    ran = subprocess.run([sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:].decode(errors="replace")
    assert ran.stdout.count(b"refused") > 50
