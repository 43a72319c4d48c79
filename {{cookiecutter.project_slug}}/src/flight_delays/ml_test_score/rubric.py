"""What does the ML Test Score ask? Its 28 rows, in four sections of seven.

Titles are in our own words. Source: Breck, Cai, Nielsen, Salib and Sculley, "The ML Test Score: A Rubric for ML
Production Readiness and Technical Debt Reduction", IEEE International Conference on Big Data, 2017.
"""

from dataclasses import dataclass

PAPER = "https://research.google/pubs/pub46555/"
SECTIONS = {"data": "Data", "model": "Model", "infra": "Infrastructure", "monitoring": "Monitoring"}


@dataclass(frozen=True)
class Row:
    """One row of the rubric.

    Attributes
    ----------
    id
        Such as `data-1`.
    section
        A key of `SECTIONS`.
    title
        What is asked.
    """

    id: str
    section: str
    title: str


_TITLES = {
    "data": (
        "What is expected of each feature is written down and checked",
        "Every feature is of use",
        "No feature costs more than it gives",
        "Features keep the project's own rules",
        "Personal data stays where it belongs",
        "A new feature is quickly added",
        "All code that makes features is tested",
    ),
    "model": (
        "Every model comes from reviewed, committed code",
        "Better scores offline mean better outcomes in use",
        "All hyperparameters have been tuned",
        "It is known what the model's age costs",
        "No simpler model is better",
        "Quality holds on every important slice of the data",
        "The model treats groups of people alike",
    ),
    "infra": (
        "Training again gives the same model",
        "The code that specifies the model is unit tested",
        "The whole pipeline is tested, from data to served prediction",
        "A model's quality is checked before it serves",
        "One prediction can be followed step by step",
        "A new model serves a few requests before all",
        "Going back to the last model is quick and safe",
    ),
    "monitoring": (
        "Somebody is told when a dependency changes",
        "What is asked of the data holds in training and in serving",
        "Training and serving compute the same features",
        "No model in use is too old",
        "The model's numbers stay sound",
        "Speed and memory have not become worse",
        "Quality on served data has not become worse",
    ),
}
_PREFIXES = {"data": "data", "model": "model", "infra": "infra", "monitoring": "mon"}

ROWS = {
    f"{_PREFIXES[section]}-{number}": Row(f"{_PREFIXES[section]}-{number}", section, title)
    for section, titles in _TITLES.items()
    for number, title in enumerate(titles, 1)
}

_READINGS = (
    (0, "more a research project than a system for production"),
    (1, "not without tests, but serious holes are likely"),
    (2, "a first pass at production, with more to be invested"),
    (3, "reasonably tested; more of it could be automated"),
    (5, "strongly tested and monitored, fit for what is critical"),
    (7, "exceptionally tested and monitored"),
)


def reading(score: float) -> str:
    """Give the paper's reading of a final score, in our words.

    Parameters
    ----------
    score
        From 0 to 7.
    """
    return next(words for limit, words in _READINGS if score <= limit)
