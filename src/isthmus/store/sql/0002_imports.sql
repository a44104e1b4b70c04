-- origin: the id of the connection that the event was read from; NULL for every other.
ALTER TABLE lake.events ADD COLUMN origin VARCHAR;
ALTER TABLE lake.tombstones ADD COLUMN origin VARCHAR;

-- What was last heard of a profile from one origin (an import, or a mapping of files), so that a row read again never
-- puts an old value back. row_key: MD5 of the row's identifiers; digest: MD5 of what else it says. profile_id is there
-- so that an erasure finds the row.
CREATE TABLE lake.profile_news (
    origin VARCHAR, row_key UUID, changed_at TIMESTAMPTZ, digest UUID, profile_id UUID, seq BIGINT);

-- How the payloads of rejections are read again: names, shapes and types of the columns they had.
CREATE TABLE lake.rejected_columns (columns_id UUID, columns VARCHAR);
ALTER TABLE lake.rejections ADD COLUMN columns_id UUID;
