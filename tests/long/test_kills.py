"""Killed again and again at any moment, over all that Isthmus does: nothing is lost, doubled or left behind.

A story is lived by processes of which most are killed with SIGKILL in the middle of a step: half of them at a random
moment, half at a chosen seam, such as between the commit of the warehouse and that of the ledger. The next one takes
the same step again. At the end the store must hold what the files say, and the warehouse what the store says, row by
row.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from isthmus.testing.standins import PostgresServer
from long import killing, story
from long.child import Death, live, prepare
from long.killing import DEATHS, Kills, found_wrong

pytestmark = pytest.mark.long

MODES, CONNECTORS = ("embedded", "scaled"), ("duckdb", "postgres")
SEAMS = {seam for deaths in DEATHS.values() for seam in deaths}


@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.parametrize("mode", MODES)
def test_a_story_with_many_deaths_ends_as_one_without(
    mode: str,
    connector: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    all_kills: dict[tuple[str, str], Kills],
    told: list[str],
) -> None:
    seed = 10 * MODES.index(mode) + CONNECTORS.index(connector)
    has_large = (mode == "embedded") == (connector == "postgres")
    written = story.write(tmp_path / "story", seed=seed, scale=story.Scale(large=200_000 if has_large else 0))
    home = make_home(mode, connector, tmp_path, request)
    kills = all_kills.setdefault((mode, connector), Kills())
    # On servers everything takes longer: there every other death, and these with one connector, those with the other.
    every = slice(None) if mode == "embedded" else slice(CONNECTORS.index(connector), None, len(CONNECTORS))
    killing.live_and_die(home, written, kills, seed=seed, deaths={k: deaths[every] for k, deaths in DEATHS.items()})
    wrong = found_wrong(home, written)
    told.append(f"{mode}, {connector}: {kills.total} kills, {len(wrong)} differences")
    told += [f"    {kind}: {counts(kills, kind)}" for kind in dict.fromkeys(kind for kind, _ in sorted(kills.done))]
    assert not wrong, "\n".join(wrong)


def test_the_first_opening_may_end_at_any_statement(tmp_path: Path, told: list[str]) -> None:
    number, ended = 0, True
    while ended:
        number += 1
        folder = tmp_path / str(number)
        writer = story.Writer(folder / "story", 1, story.Scale(people=10))
        writer.step("make")
        writer.events(".jsonl", rows=20)
        writer.people(whole=True)
        writer.step("history")
        written = writer.finished()
        home = killing.embedded(folder)
        killing.export_to_duckdb(home)
        prepare(home)
        ended = killing.run(live, home, written, 0, 1, Death(0, "store statement", number), 1) != 0
        if number % 2 or not ended:  # what is done behind one statement and before the next differs little
            assert killing.run(live, home, written, 0 if ended else 1, len(written.steps), None, 1) == 0
            assert not found_wrong(home, written), f"killed at seam {number} of the first opening"
    told.append(f"the first opening: {number - 1} kills, one at each seam")
    assert number > 10


def test_there_were_enough_deaths_of_every_manner(all_kills: dict[tuple[str, str], Kills], told: list[str]) -> None:
    if len(all_kills) < len(MODES) * len(CONNECTORS):
        pytest.skip("only some of the stories were lived")
    manners: Counter[str] = Counter()
    for kills in all_kills.values():
        for (_, manner), count in kills.done.items():
            manners[manner] += count
    told.append(
        f"all stories: {manners.total()} kills: " + ", ".join(f"{n} at a {m}" for m, n in sorted(manners.items()))
    )
    assert manners.total() >= 100
    assert {manner for manner, count in manners.items() if count} == SEAMS


def make_home(mode: str, connector: str, folder: Path, request: pytest.FixtureRequest) -> killing.Home:
    def postgres() -> PostgresServer:
        return request.getfixturevalue("postgres_server")

    home = killing.embedded(folder)
    if mode == "scaled":
        home = killing.scaled(folder, postgres(), request.getfixturevalue("s3"))
    if connector == "duckdb":
        killing.export_to_duckdb(home)
    else:
        killing.export_to_postgres(home, postgres())
    return home


def counts(kills: Kills, kind: str) -> str:
    return ", ".join(f"{n} at a {m}" for (k, m), n in sorted(kills.done.items()) if k == kind and n)
