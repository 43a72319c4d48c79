"""Does the example's source give one row a flight, with nothing in it that was not known an hour before?"""

from collections.abc import Iterator

import duckdb
import pytest

from flight_delays.flights import load


@pytest.fixture(scope="module")
def rows() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        load(connection).create("loaded")
        yield connection


def test_there_is_one_row_for_each_flight_that_arrived(rows: duckdb.DuckDBPyConnection) -> None:
    arrived = rows.execute("SELECT count(*) FROM flights WHERE arr_delay IS NOT NULL").fetchall()
    assert rows.execute("SELECT count(*) FROM loaded").fetchall() == arrived
    keys = "SELECT count(DISTINCT (scheduled_at, carrier, flight)) FROM loaded"
    assert rows.execute(keys).fetchall() == arrived


@pytest.mark.parametrize(
    ("name", "same", "hours"),
    [
        ("airport_delay", "p.origin = f.origin", 2),
        ("carrier_delay", "p.origin = f.origin AND p.carrier = f.carrier", 3),
    ],
)
def test_recent_delays_are_those_of_departures_that_had_happened(
    rows: duckdb.DuckDBPyConnection, name: str, same: str, hours: int
) -> None:
    """Compute some of them again, the slow and obvious way."""
    query = f"""
        WITH p AS (SELECT *, make_timestamp(year, month, day, hour, minute, 0) + to_minutes(dep_delay) AS left_at
                   FROM flights WHERE dep_delay IS NOT NULL)
        SELECT count(*) FILTER (shown IS DISTINCT FROM expected), count(shown) FROM (
            SELECT any_value(f.{name}) AS shown, round(avg(p.dep_delay), 3) AS expected
            FROM (SELECT * FROM loaded USING SAMPLE 300 ROWS (reservoir, 1)) f LEFT JOIN p
                ON {same} AND p.left_at
                    BETWEEN f.scheduled_at - INTERVAL {hours + 1} HOURS AND f.scheduled_at - INTERVAL 1 HOUR
            GROUP BY f.scheduled_at, f.carrier, f.flight)"""
    different, shown = rows.execute(query).fetchone() or (None, None)
    assert different == 0
    assert shown > 200
