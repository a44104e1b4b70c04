-- DuckLake replaces its own placeholders, such as {DATA_PATH}, inside file statistics made from users' texts: a value
-- that is a file's minimum or maximum then blocks the commit or is not found again. So no text is stored in which it
-- would see one. guard() puts U+0002 behind the brace (one more if some are there already: unguard() takes exactly one
-- away, so every text survives the round trip); in JSON the brace is written as its escape, which means the same.
CREATE OR REPLACE MACRO guard(s) AS regexp_replace(s, '\{(\x02*[A-Z_]+\})', '{' || chr(2) || '\1', 'g');
CREATE OR REPLACE MACRO unguard(s) AS
    CASE WHEN contains(s, chr(2)) THEN regexp_replace(s, '\{\x02(\x02*[A-Z_]+\})', '{\1', 'g') ELSE s END;
CREATE OR REPLACE MACRO guard_json(s) AS
    CASE WHEN contains(s, '{') THEN regexp_replace(s, '\{([A-Z_]+\})', '\\u007b\1', 'g') ELSE s END;
CREATE OR REPLACE MACRO metric_key(integration, name) AS
    md5(concat(integration, chr(31), name))::UUID;
CREATE OR REPLACE MACRO event_key(metric_id, profile_id, unique_id) AS
    md5(concat(metric_id, profile_id, unique_id))::UUID;

CREATE OR REPLACE VIEW metrics AS
    SELECT metric_id AS id, unguard(name) AS name, unguard(integration_name) AS integration_name, created, updated, seq
    FROM lake.metrics;
CREATE OR REPLACE VIEW events AS
    SELECT e.event_id AS id, e.metric_id, e.profile_id, e.event_time AS datetime, e.properties AS event_properties,
           m.name AS metric_name, m.integration_name, e.value, e.value_currency, unguard(e.unique_id) AS unique_id,
           e.ingested, coalesce(e.backfill, false) AS backfill, e.landed_seq, e.seq
    FROM lake.events e LEFT JOIN metrics m ON m.id = e.metric_id;
CREATE OR REPLACE VIEW identifiers AS
    SELECT kind, unguard(value) AS value, profile_id, seq FROM lake.identifiers;
CREATE OR REPLACE VIEW merges AS
    SELECT merge_id AS id, source_profile_id, destination_profile_id, cause, merged_at, events_moved, source, seq
    FROM lake.merges;
CREATE OR REPLACE VIEW rejections AS
    SELECT rejection_id AS id, unguard(source) AS source, data, row_number, unguard(column_name) AS column_name,
           reason, unguard(message) AS message, unguard(payload) AS payload, landed, rejected_at, seq
    FROM lake.rejections;

CREATE OR REPLACE MACRO in_range(t) AS
    CASE WHEN t >= TIMESTAMPTZ '0001-01-01 00:00:00+00' AND t <= TIMESTAMPTZ '9999-12-31 23:59:59.999999+00' THEN t END;
CREATE OR REPLACE MACRO finite(d) AS CASE WHEN isfinite(d) THEN d END;

-- Texts of a person, as the types of the store; NULL for what cannot be read. Dates are ISO 8601 (without a zone: UTC),
-- MM/DD/YYYY or Unix seconds; a bare number of fewer than nine digits is no date. Never day first.
CREATE OR REPLACE MACRO parse_time(s) AS CASE
    WHEN regexp_full_match(s, '\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?)?')
    THEN in_range(TRY_CAST(s AS TIMESTAMPTZ))
    WHEN regexp_full_match(s, '-?\d{9,11}(\.\d{1,6})?') THEN in_range(to_timestamp(TRY_CAST(s AS DOUBLE)))
    WHEN contains(s, '/') THEN in_range(try_strptime(s, ['%m/%d/%Y', '%m/%d/%Y %H:%M', '%m/%d/%Y %H:%M:%S',
        '%m/%d/%YT%H:%M:%S', '%m/%d/%Y %H:%M:%S.%f'])::TIMESTAMPTZ)
    END;
CREATE OR REPLACE MACRO parse_number(s) AS
    CASE WHEN regexp_full_match(trim(s), '[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?')
    THEN finite(TRY_CAST(trim(s) AS DOUBLE)) END;
CREATE OR REPLACE MACRO parse_flag(s) AS CASE
    WHEN lower(trim(s)) IN ('true', 't', 'yes', 'y', 'on', '1') THEN true
    WHEN lower(trim(s)) IN ('false', 'f', 'no', 'n', 'off', '0') THEN false END;
CREATE OR REPLACE MACRO clean_email(s) AS
    CASE WHEN length(s) <= 254 AND regexp_full_match(trim(s), '[^\s@(),:;<>\[\]/"]+@[^\s@(),:;<>\[\]/"]+\.[^\s@(),:;<>\[\]/".]+')
    THEN lower(trim(s)) END;
-- Digits with the usual marks between them; what is written another way goes through the phone number library.
CREATE OR REPLACE MACRO clean_phone(s) AS
    CASE WHEN regexp_full_match(regexp_replace(s, '[\s().\-]', '', 'g'), '\+[1-9]\d{6,14}')
    THEN regexp_replace(s, '[\s().\-]', '', 'g') END;
CREATE OR REPLACE MACRO clean_id(s) AS nullif(trim(s), '');

-- A CSV cell as JSON: numbers, true and false, objects and arrays as what they are; all else is a string. A number with
-- a leading zero, or with more digits than every reader keeps, stays the text it is.
CREATE OR REPLACE MACRO text_json(s) AS CASE
    WHEN s[1] IN ('{', '[') AND json_valid(s) THEN s
    ELSE to_json(s)::VARCHAR END;
CREATE OR REPLACE MACRO cell_json(s) AS CASE
    WHEN regexp_full_match(s, '-?(0|[1-9]\d{0,14})(\.\d{1,15})?') THEN s
    WHEN lower(s) IN ('true', 'false') THEN lower(s)
    ELSE text_json(s) END;

-- Levels of objects and arrays: with the strings taken out, the innermost pair goes ten times; what is left is deeper.
CREATE OR REPLACE MACRO structure(s) AS regexp_replace(s, '"(\\.|[^"\\])*"', '', 'g');
CREATE OR REPLACE MACRO peel(s) AS regexp_replace(s, '[\[{][^\[\]{}]*[\]}]', '', 'g');
-- Most objects hold no other: asked first, in a CASE, because both sides of an AND are worked out for every row.
CREATE OR REPLACE MACRO too_deep(s) AS CASE WHEN contains(s, '[') OR contains(substr(s, 2), '{') THEN
    length(s) - length(replace(replace(s, '{', ''), '[', '')) > 10
    AND regexp_matches(peel(peel(peel(peel(peel(peel(peel(peel(peel(peel(structure(s))))))))))), '[\[{]')
    ELSE false END;
-- What only a full parse can decide: long texts, integers beyond 64 bits, NaN and Infinity, stray commas, NUL.
CREATE OR REPLACE MACRO suspicious(s) AS
    length(s) > 100000
    OR regexp_matches(s, '[:\[,]\s*-?(\d{19}|(?i:nan|inf)|\d+(\.\d+)?[eE]\+?\d{3})|,\s*[\]}]|\\u0000');
CREATE OR REPLACE MACRO trim_braces(s) AS substr(s, 2, length(s) - 2);
CREATE OR REPLACE MACRO has_null(s) AS regexp_matches(s, ':\s*null');
-- The later object's keys win, the first one's order stays; keys with null are left out. Going through a map undoes
-- the escapes, so they are made again.
CREATE OR REPLACE MACRO without_nulls(m) AS
    map_from_entries(list_filter(map_entries(m), lambda e: e.value::VARCHAR <> 'null'));
CREATE OR REPLACE MACRO merge_objects(older, newer) AS
    guard_json(map_concat(coalesce(older, '{}')::MAP(VARCHAR, JSON), coalesce(newer, '{}')::MAP(VARCHAR, JSON))
        ::JSON::VARCHAR)::JSON;

-- Consent as values of which the greater one counts: what is known before "never", the later before the earlier, and at
-- one moment the opt-out. So the order in which rows arrive, and how often, makes no difference.
CREATE OR REPLACE MACRO consent_status(s) AS CASE lower(trim(s))
    WHEN 'subscribe' THEN 'subscribed' WHEN 'subscribed' THEN 'subscribed' WHEN 'unsubscribed' THEN 'unsubscribed'
    WHEN 'never subscribed' THEN 'never_subscribed' END;
CREATE OR REPLACE MACRO consent_value(status, since) AS CASE WHEN status IS NOT NULL THEN
    {'known': status <> 'never_subscribed', 'since': since, 'refused': status = 'unsubscribed'} END;
CREATE OR REPLACE MACRO consent_kept(subscriptions, channel) AS consent_value(
    json_extract_string(subscriptions, '$.' || channel || '.status'),
    TRY_CAST(json_extract_string(subscriptions, '$.' || channel || '.at') AS TIMESTAMPTZ));
CREATE OR REPLACE MACRO consent_json(channel, c) AS CASE WHEN c IS NOT NULL THEN
    '"' || channel || '":{"status":"' || CASE WHEN NOT c.known THEN 'never_subscribed' WHEN c.refused THEN 'unsubscribed'
    ELSE 'subscribed' END || '","at":"' || strftime(c.since, '%Y-%m-%dT%H:%M:%S.%fZ') || '"}' END;
