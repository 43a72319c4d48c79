"""Where is each run and model kept? The one module that imports MLflow."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from flight_delays.contract import Column, Contract
from flight_delays.errors import InputError
from flight_delays.model import Model
from flight_delays.settings import given, tracking_uri, without_password

# Quiet before the import: a new database is otherwise announced migration by migration.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
logging.getLogger("alembic").setLevel(logging.WARNING)

import mlflow  # noqa: E402
import mlflow.pyfunc  # noqa: E402
from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from mlflow.types import ColSpec, Schema  # noqa: E402

for noisy in ("mlflow", "alembic"):
    logging.getLogger(noisy).setLevel(logging.WARNING)
logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # it misses pip, which uv does without

CHAMPION, CHALLENGER = "champion", "challenger"
_NOT_THERE = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}  # no such alias, no such model
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Version:
    """A version of the registered model.

    Attributes
    ----------
    number
        1, 2, …
    run
        The id of the run that made it.
    tags
        What was recorded with it.
    """

    number: str
    run: str
    tags: dict[str, str]


class Registry:
    """Runs and model versions of one project.

    Parameters
    ----------
    name
        Of the experiment and of the registered model.
    uri
        Of MLflow; the one of this tier where it is empty.
    """

    def __init__(self, name: str, uri: str = "") -> None:
        self.name, self.uri = name, uri or tracking_uri()
        self.place = without_password(self.uri)
        _use(self.uri)
        self.client = MlflowClient(self.uri, self.uri)

    @contextmanager
    def run(self, run_name: str, tags: dict[str, str], parent: str | None = None) -> Iterator[str]:
        """Open a run for the length of a `with` block, and give its id; it ends as failed on an exception.

        Parameters
        ----------
        run_name
            For people.
        tags
            Recorded at once.
        parent
            The id of the run it belongs to.
        """
        mlflow.set_experiment(self.name)
        with mlflow.start_run(run_name=run_name, tags=tags, parent_run_id=parent, nested=parent is not None) as active:
            yield active.info.run_id

    def find_run(self, tag: str, value: str) -> str | None:
        """Give the id of the newest run with a tag, if there is one."""
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            return None
        found = self.client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0].info.run_id if found else None

    def log(
        self,
        run: str,
        params: dict[str, Any],
        metrics: dict[str, float],
        files: Sequence[Path] = (),
        time: int = 0,
    ) -> None:
        """Record parameters, metrics and files in one go.

        Parameters
        ----------
        run
            A run's id.
        params, metrics
            By name.
        files
            Files and folders; each keeps its name.
        time
            In milliseconds since 1970. Of a metric logged more than once, the latest value is shown.
        """
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, time, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)[:6000]) for name, value in params.items()],
        )
        for path in files:
            if path.is_dir():
                self.client.log_artifacts(run, str(path), path.name)
            elif path.exists():
                self.client.log_artifact(run, str(path))

    def register(self, run: str, folder: Path, example: pa.Table, tags: dict[str, str]) -> Version:
        """Store a model's folder with its signature, example and requirements, as a new version.

        Parameters
        ----------
        run
            The id of the open run.
        folder
            What `Model.save` wrote.
        example
            A few rows of the feature columns.
        tags
            Recorded with the version.
        """
        contract = Contract.read(folder / "contract.yaml")
        stored = mlflow.pyfunc.log_model(
            name="model",
            loader_module=f"{_PACKAGE.name}.model",  # it reads the folder; nothing is pickled
            data_path=str(folder),
            code_paths=[str(_PACKAGE)],
            signature=ModelSignature(inputs=_inputs(contract), outputs=_outputs(contract)),
            input_example=_frame(example, contract),
            pip_requirements=_requirements(),
        )
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            self.client.create_registered_model(self.name)
        # a server takes a model's URI only with the model's id beside it
        made = self.client.create_model_version(self.name, stored.model_uri, run, tags=tags, model_id=stored.model_id)
        return Version(str(made.version), run, tags)

    def find_version(self, tags: dict[str, str]) -> Version | None:
        """Give the newest version with all these tags, if there is one."""
        wanted = " and ".join([f"name = '{self.name}'", *(f"tags.`{key}` = '{value}'" for key, value in tags.items())])
        found = self.client.search_model_versions(wanted)
        newest = max(found, key=lambda entry: int(entry.version), default=None)
        return Version(str(newest.version), newest.run_id, dict(newest.tags)) if newest else None

    def champion(self) -> Version | None:
        """Give the version behind the alias `champion`, if there is one."""
        return self.behind(CHAMPION)

    def behind(self, alias: str) -> Version | None:
        """Give the version behind an alias, if there is one.

        Parameters
        ----------
        alias
            `champion` or `challenger`.

        Raises
        ------
        InputError
            The registry does not answer.
        """
        try:
            found = self.client.get_model_version_by_alias(self.name, alias)
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise InputError(f"the registry at {self.place} does not answer: {_first_line(error)}") from None
            return None
        return Version(str(found.version), found.run_id, dict(found.tags))

    def version(self, number: str) -> Version:
        """Give a version by its number.

        Raises
        ------
        InputError
            There is no such version, or the registry does not answer.
        """
        try:
            found = self.client.get_model_version(self.name, number)
        except MlflowException as error:
            raise InputError(f"version {number} of {self.name} at {self.place}: {_first_line(error)}") from None
        return Version(str(found.version), found.run_id, dict(found.tags))

    def metrics(self, version: Version) -> dict[str, float]:
        """Give the metrics of the run that made a version.

        Raises
        ------
        InputError
            The registry does not answer.
        """
        try:
            return dict(self.client.get_run(version.run).data.metrics)
        except MlflowException as error:
            raise InputError(f"run {version.run} at {self.place}: {_first_line(error)}") from None

    def before(self, number: str) -> Version | None:
        """Give the newest version before another that passed the gate and was not refused on live requests."""
        found = self.client.search_model_versions(f"name = '{self.name}' and tags.gate = 'passed'")
        older = [entry for entry in found if int(entry.version) < int(number) and "refused.live" not in entry.tags]
        newest = max(older, key=lambda entry: int(entry.version), default=None)
        return Version(str(newest.version), newest.run_id, dict(newest.tags)) if newest else None

    def tag(self, version: Version, tags: dict[str, str]) -> Version:
        """Record something with a version, and give it as it is now."""
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, version.number, key, value)
        return replace(version, tags=version.tags | tags)

    def admit(self, version: Version, alias: str = CHAMPION) -> None:
        """Require that the gate has let a version pass.

        Parameters
        ----------
        version
            Of this registry.
        alias
            That it is to get.

        Raises
        ------
        InputError
            It has not; with its reason.
        """
        if version.tags.get("gate") != "passed":
            reason = version.tags.get("gate.reason", "it never stood before the gate")
            raise InputError(f"version {version.number} of {self.name} cannot become {alias}: {reason}")

    def promote(self, version: Version, alias: str = CHAMPION) -> None:
        """Move an alias to a version.

        Parameters
        ----------
        version
            Of this registry.
        alias
            `champion`, or `challenger` for one that is to be tried on live requests first.

        Raises
        ------
        InputError
            The gate has not let it pass.
        """
        self.admit(version, alias)
        self.client.set_registered_model_alias(self.name, alias, version.number)

    def demote(self, alias: str) -> None:
        """Take an alias away; nothing is done where nobody has it."""
        self.client.delete_registered_model_alias(self.name, alias)

    def describe(self, tags: dict[str, str]) -> None:
        """Record something with the registered model as a whole."""
        for key, value in tags.items():
            self.client.set_registered_model_tag(self.name, key, value)

    def download(self, version: Version, folder: Path) -> Path:
        """Bring a version's files into a folder, and give the model's own folder in it.

        Parameters
        ----------
        version
            Of this registry.
        folder
            An existing folder, such as a temporary one.

        Raises
        ------
        InputError
            They cannot be had, or are no model of this project.
        """
        found = next(iter(sorted(self._files(version, folder).glob("data/*/model.json"))), None)
        if found is None:
            raise InputError(f"version {version.number} of {self.name} in the registry holds no model of this project")
        return found.parent

    def _files(self, version: Version, folder: Path) -> Path:
        """Bring all files of a version into a folder, and say where they are."""
        _use(self.uri)  # another one may have been opened since
        place = f"models:/{self.name}/{version.number}"
        try:
            return Path(mlflow.artifacts.download_artifacts(place, dst_path=str(folder)))
        except (MlflowException, OSError) as error:
            raise InputError(
                f"version {version.number} of {self.name} cannot be fetched: {_first_line(error)}"
            ) from None

    def carry(self, version: Version, other: "Registry", folder: Path) -> Version:
        """Bring a version of another registry into this one: its files, tags, parameters and metrics, once.

        Parameters
        ----------
        version
            Of the other registry.
        other
            Where it is.
        folder
            An existing folder, such as a temporary one.

        Returns
        -------
        Version
            Of this registry, with a number of its own.
        """
        if other.uri == self.uri:
            return version
        kept = {"model", "contract", "data", "git.commit"}
        same = {key: value for key, value in version.tags.items() if key in kept}
        if found := self.find_version(same):
            return found
        made, files = other.client.get_run(version.run).data, other._files(version, folder)
        tags = version.tags | {"carried.from": f"version {version.number} at {other.place}"}
        _use(self.uri)
        with self.run(f"version {version.number}", tags) as run:
            self.log(run, made.params, made.metrics)
            self.client.log_artifacts(run, str(files), "model")
            if not self.client.search_registered_models(f"name = '{self.name}'"):
                self.client.create_registered_model(self.name)
            carried = self.client.create_model_version(self.name, f"runs:/{run}/model", run, tags=tags)
        return Version(str(carried.version), run, tags)

    def fetch(self, version: Version, folder: Path) -> Model:
        """Bring a version's files into a folder and load them, as `download` and `Model.load` do."""
        return Model.load(self.download(version, folder))


def _use(uri: str) -> None:
    """Let MLflow use a place, and the environment say still what it said: MLflow itself changes it."""
    before = given("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before:
        os.environ["MLFLOW_TRACKING_URI"] = before


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


def _frame_types(contract: Contract) -> list[tuple[Column, str, pa.DataType]]:
    """List the features with their types in an MLflow signature and in the data frame that goes with it.

    A data frame has no whole numbers with gaps, so an integer that may be null is a double; nor dates or times.
    """
    same = {
        "boolean": "boolean",
        "integer": "long",
        "number": "double",
        "string": "string",
        "timestamp": "datetime",
    }
    other = {"date": ("datetime", pa.timestamp("us")), "time": ("string", pa.string())}
    found = []
    for column in contract.features:
        kind, arrow = other.get(column.type) or (same[column.type], column.arrow_type)
        if column.type == "integer" and not column.required:
            kind, arrow = "double", pa.float64()
        found.append((column, kind, arrow))
    return found


def _frame(rows: pa.Table, contract: Contract) -> Any:
    return rows.cast(pa.schema([(column.name, arrow) for column, _, arrow in _frame_types(contract)])).to_pandas()


def _inputs(contract: Contract) -> Schema:
    return Schema([ColSpec(kind, column.name, required=column.required) for column, kind, _ in _frame_types(contract)])


def _outputs(contract: Contract) -> Schema:
    kind = {"boolean": "boolean", "integer": "long", "string": "string"}.get(contract.target.type, "double")
    if contract.task == "regression":
        return Schema([ColSpec("double", "prediction")])
    names = ["probability"] if contract.task == "binary" else [f"probability_{name}" for name in contract.classes]
    return Schema([ColSpec(kind, "prediction"), *(ColSpec("double", name) for name in names)])


def _requirements() -> list[str]:
    """Pin what the project's own metadata says a prediction needs, at the versions installed here."""
    names = [re.match(r"[\w.-]+", entry)[0] for entry in requires("flight-delays") or ()]  # type: ignore[index]
    return [f"{name}=={version(name)}" for name in [*names, "mlflow", "pandas"]]
