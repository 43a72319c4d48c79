"""How often does a statistical row of the ML Test Score turn red on healthy data? The example, resampled."""

import importlib
import json
import subprocess
import sys
from typing import Any

from measure import cost, example, verdict, write

RESAMPLES = 100
ROWS = 20_000  # of the test rows: fewer than `make score` looks at, so chance has more room
WANTED = 1  # false alarms in a hundred, at most


def main() -> None:
    """Fit once in a generated example, then judge a hundred resamples of its held-out rows with the same fits."""
    with example() as project:
        cost(["make", "pipeline"], project)
        command = [str(project / ".venv/bin/python"), "-W", "ignore", __file__, "inside"]
        done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    rows = [
        [row, entry["what"], str(entry["healthy"]), f"{entry['red']} of {RESAMPLES}", entry["first"]]
        for row, entry in found.items()
    ]
    worst = max(entry["red"] for entry in found.values())
    header = ["row", "what is drawn anew", "problems on the rows as they are", "red", "first false alarm"]
    question = f"How often is a row red on healthy data? The example, {RESAMPLES} resamples of {ROWS:,} held-out rows"
    write("false_alarms", question, header, rows, [verdict("most false alarms of a row", worst, WANTED)])


def inside() -> None:
    """Run in the project: print, for each row, how many resamples turn it red."""
    names = ("values", "slices", "groups", "staleness", "impact", "search")
    asked = {name: importlib.import_module(f"flight_delays.assess.{name}") for name in names}
    modules = ("assess.evidence", "settings", "baselines", "gate", "scores")
    evidence_, settings, baselines, gate, scores = (importlib.import_module(f"flight_delays.{name}") for name in modules)
    numpy = importlib.import_module("numpy")
    chosen, evaluating = settings.params("assess"), settings.params("evaluate") | {"resamples": 100}
    evidence = evidence_.Evidence.load(ROWS)
    drawing = numpy.random.default_rng(1)
    draws = [drawing.integers(0, len(evidence.y), len(evidence.y)) for _ in range(RESAMPLES)]
    shared = {key: value for key, value in chosen.items() if not isinstance(value, dict)} | {"resamples": 100}
    options = {name: shared | chosen.get(name, {}) for name in names}

    looked, gain = asked["values"].gains(evidence, *(options["values"][key] for key in ("repeats", "visits", "seed")))
    windows = asked["staleness"].fits(evidence, asked["staleness"]._windows(evidence, options["staleness"]))
    ladder = asked["impact"].climb(evidence, asked["impact"].fits(evidence, options["impact"]), options["impact"])
    searched = asked["search"].fits(evidence)
    learned, y = evidence.training()
    simple = {
        "constant": baselines.constant(evidence.contract, y, len(evidence.y)),
        "linear": baselines.linear(evidence.contract, learned, y, evidence.X),
    }

    def values(rows: Any) -> list[str]:
        rows = rows[rows < len(gain)]
        judged: list[str] = asked["values"].judge(looked.take(rows), gain[rows], chosen["confidence"])["problems"]
        return judged

    def beats_simple(rows: Any) -> list[str]:
        score, truth = evidence.score, evidence.y[rows]
        again = scores.resample(truth, evaluating["resamples"], 0, True)
        ours = scores.resampled(score, truth, evidence.output[rows], again)
        gains = {}
        for name, output in simple.items():
            theirs = scores.resampled(score, truth, output[rows], again)
            value = score.function(truth, evidence.output[rows]) - score.function(truth, output[rows])
            found = scores.interval(score.sign * value, score.sign * (ours - theirs), evaluating["confidence"])
            gains[name] = {"value": found.value, "low": found.low, "high": found.high}
        judged = gate.beats_baselines({"score": score.name, "gain": gains})
        return [] if judged.passed else [judged.reason]

    def replayed(rows: Any) -> list[str]:
        offline, online = (rows[:count] % count for count in (len(ladder.truth), ladder.costs.shape[1]))
        outputs = [output[offline] for output in ladder.outputs]
        drawn = type(ladder)(ladder.names, ladder.truth[offline], outputs, ladder.costs[:, online])
        judged: list[str] = asked["impact"].judge(evidence, drawn, options["impact"])["problems"]
        return judged

    def search_again(rows: Any) -> list[str]:
        rows = rows % len(searched.truth)
        outputs = tuple(output[rows] for output in searched.outputs)
        drawn = type(searched)(searched.trials, searched.best, searched.values, searched.truth[rows], outputs)
        judged: list[str] = asked["search"].judge(evidence, drawn, options["search"])["problems"]
        return judged

    def problems(name: str) -> Any:
        return lambda rows: asked[name].measure(evidence.take(rows), options[name]).get("problems", [])

    judges = {
        "data-2": ("test rows, with the gains measured on them", values),
        "model-2": ("validation rows and replayed rows", replayed),
        "model-3": ("validation rows", search_again),
        "model-4": (
            "test rows",
            lambda rows: asked["staleness"].judge(evidence.take(rows), windows, options["staleness"])["problems"],
        ),
        "model-5": ("test rows", beats_simple),
        "model-6": ("test rows; weak slices are searched for once more", problems("slices")),
        "model-7": ("test rows", problems("groups")),
    }
    found = {}
    for row, (what, judge) in judges.items():
        healthy = judge(numpy.arange(len(evidence.y)))
        alarms = [alarm for draw in draws if (alarm := judge(draw))]
        first = alarms[0][0][:160] if alarms else ""
        found[row] = {"what": what, "healthy": len(healthy), "red": len(alarms), "first": first}
        print(row, found[row], file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["inside"] else main()
