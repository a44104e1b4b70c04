-- Identifiers, keys and numbers are documented in docs/architecture.md, "The store".
CREATE TABLE lake.store_version (version INTEGER);

-- One row. Its number is the store's commit sequence: moved by every write, in the write's own transaction.
CREATE TABLE lake.fence (n BIGINT);
INSERT INTO lake.fence VALUES (0);

CREATE TABLE lake.profiles (
    profile_id UUID, seq BIGINT,
    external_id VARCHAR, email VARCHAR, phone_number VARCHAR,
    first_name VARCHAR, last_name VARCHAR, title VARCHAR, organization VARCHAR, image VARCHAR, locale VARCHAR,
    location_address1 VARCHAR, location_address2 VARCHAR, location_city VARCHAR, location_region VARCHAR,
    location_country VARCHAR, location_zip VARCHAR, location_latitude DOUBLE, location_longitude DOUBLE,
    location_timezone VARCHAR, location_ip VARCHAR,
    properties JSON, subscriptions JSON,
    created TIMESTAMPTZ, updated TIMESTAMPTZ, last_event_date TIMESTAMPTZ);

-- kind: profile_id (an id that was merged away), external_id, email, phone_number, anonymous_id.
CREATE TABLE lake.identifiers (kind VARCHAR, value VARCHAR, profile_id UUID, seq BIGINT);

CREATE TABLE lake.metrics (
    metric_id UUID, name VARCHAR, integration_name VARCHAR, created TIMESTAMPTZ, updated TIMESTAMPTZ, seq BIGINT);

-- seq: the commit that last changed the row; landed_seq: the one that brought it.
CREATE TABLE lake.events (
    event_id UUID, seq BIGINT, landed_seq BIGINT, metric_id UUID, profile_id UUID,
    event_time TIMESTAMPTZ, ingested TIMESTAMPTZ, unique_id VARCHAR, value DOUBLE, value_currency VARCHAR,
    properties JSON);

CREATE TABLE lake.merges (
    merge_id UUID, source_profile_id UUID, destination_profile_id UUID, cause VARCHAR, merged_at TIMESTAMPTZ,
    events_moved BIGINT, source JSON, seq BIGINT);

-- kind: profile, event; reason: merged, repeated, erased. Of an event also what decides which exports ever sent it.
CREATE TABLE lake.tombstones (
    kind VARCHAR, id UUID, reason VARCHAR, seq BIGINT, metric_id UUID, event_time TIMESTAMPTZ, landed_seq BIGINT);

CREATE TABLE lake.rejections (
    rejection_id UUID, source VARCHAR, data VARCHAR, row_number BIGINT, column_name VARCHAR, reason VARCHAR,
    message VARCHAR, payload VARCHAR, landed BOOLEAN, rejected_at TIMESTAMPTZ, seq BIGINT);

CREATE TABLE lake.import_state (source VARCHAR, cursor VARCHAR, seq BIGINT);
