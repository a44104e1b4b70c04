-- What keeps erased people erased (store/erased.py). digest: keyed, of an identifier (what: its kind), of what a row of
-- theirs said (row), or of a rejection that named them (payload). erased_at: rows from up to then are not taken.
CREATE TABLE lake.erased (what VARCHAR, digest UUID, erased_at TIMESTAMPTZ, seq BIGINT);

-- One row once somebody was erased: the key of the digests, of this store alone.
CREATE TABLE lake.erasure_key (key VARCHAR);
