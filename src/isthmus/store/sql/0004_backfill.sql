-- backfill: the event is history, told later: it sets nothing off. NULL is false.
ALTER TABLE lake.events ADD COLUMN backfill BOOLEAN;
