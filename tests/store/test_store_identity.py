"""Who is who: shared identifiers make one person, a higher identifier that differs makes two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_cast import Cast, outcome, partition

from isthmus.model.errors import InvalidInput
from isthmus.store import people
from isthmus.store.identity import Decisions, Link, decide

# Ranks 1 to 3 (external id, email, phone) with three values each: small enough that everything meets everything.
TUPLES = st.lists(
    st.dictionaries(st.integers(1, 3), st.sampled_from("abc"), min_size=1, max_size=3).map(
        lambda d: tuple(sorted(d.items()))
    ),
    min_size=1,
    max_size=8,
    unique=True,
)


def numbered(tuples: Sequence[Sequence[Link]]) -> list[tuple[int, Sequence[Link]]]:
    return list(enumerate(tuples))


def owners(known: Mapping[str, Sequence[Link]], found: Decisions) -> dict[Link, str]:
    """Every identifier's profile after the decisions were carried out."""
    moved = {source: destination for source, destination, _ in found.merges}
    owner = {link: moved.get(at, at) for at, links in known.items() for link in links}
    for link, at in found.attached:
        assert link not in owner, "an identifier was given to a second profile"
        owner[link] = at
    return owner


def people_of(owner: Mapping[Link, str]) -> dict[str, list[Link]]:
    found: dict[str, list[Link]] = defaultdict(list)
    for link, at in owner.items():
        found[at].append(link)
    return found


@settings(max_examples=100, deadline=None)
@given(first=TUPLES, second=TUPLES)
def test_every_tuple_gets_a_profile_and_every_identifier_has_one_owner(
    first: list[tuple[Link, ...]], second: list[tuple[Link, ...]]
) -> None:
    known: dict[str, list[Link]] = {}
    for tuples in (first, second):
        found = decide(numbered(tuples), known)
        assert sorted(found.people) == list(range(len(tuples)))
        owner = owners(known, found)
        sources = {source for source, _, _ in found.merges}
        assert len(sources) == len(found.merges), "a profile was merged twice"
        assert sources <= set(known), "a profile that was never there was merged"
        assert not sources & set(found.people.values()), "a row went to a profile that is gone"
        assert not sources & {at for _, at in found.attached}
        assert set(found.people.values()) <= set(known) - sources | set(found.created)
        taken = defaultdict(set)
        for number, link in found.taken:
            taken[number].add(link)
        for number, links in enumerate(tuples):
            for link in links:
                assert (owner[link] == found.people[number]) or link in taken[number]
        known = people_of(owner)


@settings(max_examples=100, deadline=None)
@given(first=TUPLES, second=TUPLES)
def test_two_profiles_that_differ_in_a_higher_identifier_are_never_merged(
    first: list[tuple[Link, ...]], second: list[tuple[Link, ...]]
) -> None:
    known = people_of(owners({}, decide(numbered(first), {})))
    found = decide(numbered(second), known)
    for source, destination, cause in found.merges:
        rank = {"external_id": 1, "email": 2, "phone_number": 3}[cause]
        theirs = {r for r, _ in known[source]}
        ours = {r for r, _ in known.get(destination, ())}
        assert not {r for r in theirs & ours if r < rank}, "they share no identifier of a kind that both have"


@settings(max_examples=100, deadline=None)
@given(first=TUPLES, second=TUPLES)
def test_the_profile_with_the_higher_identifier_stays(
    first: list[tuple[Link, ...]], second: list[tuple[Link, ...]]
) -> None:
    known = people_of(owners({}, decide(numbered(first), {})))
    # One at a time, so that a profile's identifiers at its merge are known.
    for links in second:
        found = decide([(0, links)], known)
        for source, destination, _ in found.merges:
            if destination in known:
                assert min(r for r, _ in known[destination]) <= min(r for r, _ in known[source])
        known = people_of(owners(known, found))


@settings(max_examples=100, deadline=None)
@given(tuples=TUPLES)
def test_rows_one_by_one_and_in_one_batch_make_the_same_people(tuples: list[tuple[Link, ...]]) -> None:
    together = owners({}, decide(numbered(tuples), {}))
    known: dict[str, list[Link]] = {}
    for links in tuples:
        known = people_of(owners(known, decide([(0, links)], known)))
    assert sorted(map(sorted, people_of(together).values())) == sorted(map(sorted, known.values()))


COLUMNS = {1: "ext", 2: "email", 3: "phone"}


def as_row(cast: Cast, tag: str, links: Sequence[Link]) -> dict[str, str]:
    digit = {"a": "1", "b": "2", "c": "3"}
    values = {
        1: lambda v: f"{v}-{tag}",
        2: lambda v: f"{v}.{tag}@example.com",
        3: lambda v: f"+49{digit[v]}{int(tag[:8], 16) % 10**9:09}",
    }
    return {COLUMNS[rank]: values[rank](value) for rank, value in links}


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(tuples=TUPLES, cut=st.integers(0, 8))
def test_the_store_decides_as_the_pure_function_does(crowd: Cast, tuples: list[tuple[Link, ...]], cut: int) -> None:
    tag = uuid4().hex[:8]
    rows = [as_row(crowd, tag, links) for links in tuples]
    for part in (rows[:cut], rows[cut:]):
        if part:
            counts = crowd.events(*part)
            assert (counts.read, counts.landed) == (len(part), len(part))
    owner = owners({}, decide(numbered(tuples), {}))
    expected = sorted(
        sorted(as_row(crowd, tag, [link]).popitem()[1] for link in own) for own in people_of(owner).values()
    )
    found = partition(crowd, [as_row(crowd, tag, [link]).popitem()[1] for link in owner])
    assert sorted(map(sorted, found)) == expected
    counts = crowd.ask("SELECT count(*) FROM identifiers WHERE kind <> 'profile_id' AND contains(value, ?)", tag)
    rank_3 = sum(rank == 3 for rank, _ in owner)
    assert counts[0][0] == len(owner) - rank_3


# Situations


def test_alice_is_merged_when_her_email_meets_her_customer_number(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    c.events({"email": c.mail("alice"), "id": "visit"})
    c.events({"ext": c.own("alice"), "id": "order"})
    visitor, customer = c.who(c.mail("alice")), c.who(c.own("alice"))
    counts = c.events({"ext": c.own("alice"), "email": c.mail("alice"), "id": "both"})
    assert (counts.merged, counts.profiles_created) == (1, 0)
    assert c.who(c.mail("alice")) == c.who(c.own("alice")) == customer
    assert c.events_of(customer) == ["both", "order", "visit"]
    assert c.who(visitor) == customer, "the id of the merged profile still leads to her"
    [record] = c.ask(
        "SELECT destination_profile_id::VARCHAR, cause, events_moved FROM merges WHERE source_profile_id = ?", visitor
    )
    assert record == (customer, "email", 1)
    assert c.ask("SELECT count(*) FROM profiles WHERE id = ?", visitor) == [(0,)]
    assert c.profile(customer)["email"] == c.mail("alice")


def test_a_household_that_shares_an_email_stays_two_people(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    home = c.mail("home")
    c.events({"ext": c.own("ann"), "email": home})
    counts = c.events({"ext": c.own("ben"), "email": home})
    assert (counts.landed, counts.merged, counts.taken) == (1, 0, 1)
    assert c.who(c.own("ann")) != c.who(c.own("ben"))
    assert c.who(home) == c.who(c.own("ann"))
    assert c.profile(c.own("ben"))["email"] is None
    [told] = c.ask("SELECT reason, landed, contains(message, ?) FROM rejections WHERE contains(payload, ?)", home, home)
    assert told == ("identifier taken", True, True)
    again = c.events({"ext": c.own("ben"), "email": home})
    assert (again.landed, again.merged) == (1, 0)


def test_a_household_in_one_file_stays_two_people_too(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    counts = c.events(
        {"ext": c.own("ann"), "email": c.mail("home")},
        {"ext": c.own("ben"), "email": c.mail("home")},
        {"email": c.mail("home")},
    )
    assert (counts.landed, counts.profiles_created, counts.taken) == (3, 2, 1)
    assert len(c.events_of(c.own("ann"))) == 2


def test_a_row_that_names_a_profile_by_its_id_finds_it(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    c.events({"ext": c.own("dora")})
    dora = c.who(c.own("dora"))
    counts = c.events({"pid": dora, "email": c.mail("dora")}, {"pid": dora.upper(), "id": "capitals"})
    assert outcome(counts) == (2, 2, 0, 0)
    assert c.who(c.mail("dora")) == dora
    assert "capitals" in c.events_of(dora)


@pytest.mark.parametrize("nobody", ["0190163d-8694-739b-aea5-966c26f8ad91", "not an id at all"])
def test_a_profile_id_that_nobody_has_is_rejected(crowd: Cast, nobody: str) -> None:
    c = Cast(crowd.lake, crowd.folder)
    counts = c.events({"pid": nobody, "email": c.mail("erik")}, {"email": c.mail("frida")})
    assert outcome(counts) == (2, 1, 0, 1)
    assert counts.reasons == {"unknown profile id": 1}
    with pytest.raises(InvalidInput):
        c.who(c.mail("erik"))


def test_a_merged_away_profile_id_still_resolves_however_it_is_written(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    c.events({"email": c.mail("gail")})
    c.events({"ext": c.own("gail")})
    old = c.who(c.mail("gail"))
    c.events({"ext": c.own("gail"), "email": c.mail("gail")})
    counts = c.events({"pid": old, "id": "plain"}, {"pid": old.upper(), "id": "capitals"})
    assert outcome(counts) == (2, 2, 0, 0)
    assert {"plain", "capitals"} <= set(c.events_of(c.own("gail")))
    assert people.find(c.lake, old.upper()) == c.who(c.own("gail"))


def test_merges_in_a_chain_end_in_one_person(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    phone = f"+4917{int(c.tag, 16) % 10**8:08}"
    c.events({"phone": phone, "id": "call"})
    by_phone = c.who(phone)
    c.events({"email": c.mail("hal"), "phone": phone, "id": "mail"})
    c.events({"email": c.mail("hal2"), "id": "second mail"})
    by_mail = c.who(c.mail("hal2"))
    c.events({"ext": c.own("hal"), "id": "order"})
    c.events(
        {"ext": c.own("hal"), "email": c.mail("hal"), "id": "x"},
        {"ext": c.own("hal"), "email": c.mail("hal2"), "id": "y"},
    )
    hal = c.who(c.own("hal"))
    assert {c.who(k) for k in (phone, by_phone, c.mail("hal"), c.mail("hal2"), by_mail)} == {hal}
    assert c.events_of(hal) == ["call", "mail", "order", "second mail", "x", "y"]
    assert c.ask("SELECT count(*) FROM merges WHERE destination_profile_id = ?", hal) == [(2,)]


def test_landing_the_same_events_again_after_a_merge_repeats_them(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    visits = [{"email": c.mail("ida"), "id": f"v{n}"} for n in range(3)]
    orders = [{"ext": c.own("ida"), "id": f"o{n}"} for n in range(3)]
    c.events(*visits)
    c.events(*orders)
    c.events({"ext": c.own("ida"), "email": c.mail("ida"), "id": "both"})
    assert outcome(c.events(*visits, *orders)) == (6, 0, 6, 0)
    assert outcome(c.events({"ext": c.own("ida"), "id": "v0"}, {"email": c.mail("ida"), "id": "o0"})) == (2, 0, 2, 0)
    assert len(c.events_of(c.own("ida"))) == 7


def test_an_event_that_both_sides_of_a_merge_had_stays_once_as_it_first_landed(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    c.events({"email": c.mail("jo"), "id": "same", "note": "first"})
    c.events({"ext": c.own("jo"), "id": "same", "note": "second"}, {"ext": c.own("jo"), "id": "other"})
    c.events({"ext": c.own("jo"), "email": c.mail("jo"), "id": "both"})
    assert c.events_of(c.own("jo")) == ["both", "other", "same"]
    [(note,)] = c.ask(
        "SELECT event_properties->>'note' FROM events WHERE unique_id = 'same' AND profile_id = ?", c.who(c.own("jo"))
    )
    assert note == "first"
    assert outcome(c.events({"ext": c.own("jo"), "id": "same"}, {"email": c.mail("jo"), "id": "same"}))[1:3] == (0, 2)


def test_in_a_merge_gaps_are_filled_and_the_higher_ones_values_win(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    c.profiles({"email": c.mail("kim"), "first": "Kimberly", "city": "Ulm", "tier": "basic", "shoe": 38})
    c.profiles({"ext": c.own("kim"), "first": "Kim", "title": "Dr", "tier": "gold"})
    c.profiles({"ext": c.own("kim"), "email": c.mail("kim")})
    kim = c.profile(c.own("kim"))
    assert (kim["first_name"], kim["title"], kim["location_city"]) == ("Kim", "Dr", "Ulm")
    assert kim["properties"] == '{"tier":"gold","shoe":38}' or kim["properties"] == '{"shoe":38,"tier":"gold"}'
    [(source,)] = c.ask("SELECT source FROM merges WHERE destination_profile_id = ?", str(kim["id"]))
    assert '"first_name":"Kimberly"' in source and '"tier"' in source


def test_a_person_erased_and_landed_again_is_somebody_new(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    rows = [{"ext": c.own("lea"), "email": c.mail("lea"), "id": f"e{n}"} for n in range(3)]
    c.events(*rows)
    before = c.who(c.own("lea"))
    assert c.erase(c.own("lea")) == {"profiles": 1, "events": 3, "identifiers": 2, "rejections": 0}
    with pytest.raises(InvalidInput, match="nobody is known"):
        c.who(c.mail("lea"))
    # In another order it is another file.
    assert c.events(*reversed(rows)).reasons == {"erased": 3}
    later = "2126-01-01T12:00:00Z"
    assert outcome(c.events(*({**row, "at": later} for row in rows))) == (3, 3, 0, 0)
    assert c.who(c.mail("lea")) != before
    assert c.events({"pid": before}).reasons == {"erased": 1}
    assert c.events({"pid": before, "at": later}).reasons == {"unknown profile id": 1}


def test_emails_and_phones_are_compared_in_one_spelling(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    number = f"+1415{int(c.tag, 16) % 10**7:07}"
    c.events({"email": c.mail("Max"), "phone": number})
    spelled = f"+1 (415) {number[5:8]}-{number[8:]}"
    counts = c.events({"email": f"  {c.mail('MAX').upper()} "}, {"phone": spelled})
    assert (counts.landed, counts.profiles_created) == (2, 0)
    assert c.who(c.mail("max")) == c.who(number) == c.who(spelled)


def test_erasing_removes_what_rejections_and_merges_remember_but_nobody_elses(crowd: Cast) -> None:
    c = Cast(crowd.lake, crowd.folder)
    c.profiles({"email": c.mail("nina"), "first": "Nina"})
    c.events({"ext": c.own("nina")}, {"ext": c.own("nina-2")})
    c.events({"ext": c.own("nina"), "email": c.mail("nina")})
    c.events(
        {"ext": c.own("nina"), "at": "never"},
        {"ext": f"{c.own('nina')}x", "at": "never"},
        {"ext": c.own("otto"), "at": "never"},
    )
    assert c.erase(c.own("nina"))["rejections"] == 1
    left = c.ask("SELECT payload FROM rejections WHERE contains(payload, ?)", c.tag)
    assert len(left) == 2
    everything = c.ask("SELECT source FROM merges UNION ALL SELECT payload FROM rejections")
    assert not [text for (text,) in everything if text and c.mail("nina") in text]
