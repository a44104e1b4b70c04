-- What an import that compares a whole relation saw of each of its rows. origin: the import and what makes its keys;
-- row_key: MD5 of the key columns; digest: MD5 of what the row says; taken: whether it landed; event_id: the event it
-- stands for, if that came from this warehouse; profile_id, said: whom it is about and what it gave, where that is to be
-- taken back when the row is gone.
CREATE TABLE lake.known_rows (
    origin VARCHAR, row_key UUID, digest UUID, taken BOOLEAN, event_id UUID, profile_id UUID, said JSON, seq BIGINT);

-- The row that a rejection stands for: when it changes or goes, so does the rejection.
ALTER TABLE lake.rejections ADD COLUMN row_key UUID;
