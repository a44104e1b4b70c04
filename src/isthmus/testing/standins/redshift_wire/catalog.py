"""What Redshift has and PostgreSQL has not: made in the schema `rs` of every database of the stand-in."""

from __future__ import annotations

SETTINGS = {
    "search_path": '"$user", public, rs',
    # Redshift is serializable, and its texts know the backslash as PostgreSQL 8.0's did.
    "default_transaction_isolation": "serializable",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "on",
    "TimeZone": "UTC",
}
"""Settings of every database."""

_TYPE = "CASE data_type WHEN 'jsonb' THEN 'super' WHEN 'bytea' THEN 'binary varying' ELSE data_type END"

SETUP = rf"""
CREATE SCHEMA rs;
GRANT USAGE ON SCHEMA rs TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;

-- JSON. JSON_PARSE is as strict as Redshift's: no repeated names, no half of a surrogate pair, no text beyond 65,535
-- bytes inside (what it is without the database's parameter for longer ones).
CREATE FUNCTION rs.can_json_parse(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF NOT ($1 IS JSON WITH UNIQUE KEYS AND pg_input_is_valid($1, 'jsonb')) THEN
        RETURN false;
    ELSIF octet_length($1) <= 65535 THEN
        RETURN true;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM jsonb_path_query($1::jsonb, 'strict $.** ? (@.type() == "string")') AS piece
        WHERE octet_length(piece #>> '{{}}') > 65535
    );
END $$;
CREATE FUNCTION rs.can_json_parse(bytea) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT rs.can_json_parse(convert_from($1, 'UTF8'))
$$;
CREATE FUNCTION rs.json_parse(text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF octet_length($1) > 65535 AND NOT rs.can_json_parse($1) OR NOT $1 IS JSON WITH UNIQUE KEYS THEN
        RAISE EXCEPTION 'JSON parsing error'
            USING ERRCODE = 'XX000', DETAIL = 'error: JSON parsing error code: 8001 context: invalid json';
    END IF;
    RETURN $1::jsonb;
END $$;
CREATE FUNCTION rs.json_parse(bytea) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT rs.json_parse(convert_from($1, 'UTF8'))
$$;
CREATE FUNCTION rs.json_serialize(jsonb) RETURNS varchar LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT $1::text $$;
CREATE FUNCTION rs.json_typeof(jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT jsonb_typeof($1) $$;
CREATE FUNCTION rs.is_object(jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_typeof($1) = 'object' $$;
CREATE FUNCTION rs.json_extract_path_text(text, VARIADIC text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT $1::json #>> $2
$$;
-- A text made SUPER is a string in it.
CREATE FUNCTION rs.text_to_super(varchar) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT to_jsonb($1::text)
$$;
CREATE CAST (varchar AS jsonb) WITH FUNCTION rs.text_to_super(varchar);

-- VARBYTE
CREATE FUNCTION rs.to_varbyte(text, text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE lower($2) WHEN 'hex' THEN decode($1, 'hex') WHEN 'utf-8' THEN convert_to($1, 'UTF8')
        WHEN 'utf8' THEN convert_to($1, 'UTF8') WHEN 'base64' THEN decode($1, 'base64') END
$$;
CREATE FUNCTION rs.from_varbyte(bytea, text) RETURNS varchar(65535) LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE made text := CASE lower($2) WHEN 'hex' THEN encode($1, 'hex') WHEN 'base64' THEN encode($1, 'base64')
    ELSE convert_from($1, 'UTF8') END;
BEGIN
    IF octet_length(made) > 65535 THEN
        RAISE EXCEPTION 'value too long for type character varying(65535)' USING ERRCODE = '22001';
    END IF;
    RETURN made;
END $$;
CREATE FUNCTION rs.len(text) RETURNS integer LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT length($1) $$;

-- Small things
CREATE FUNCTION rs.strtol(text, integer) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE $2 WHEN 16 THEN ('x' || lpad($1, 16, '0'))::bit(64)::bigint END
$$;
CREATE FUNCTION rs.nvl(anycompatible, anycompatible) RETURNS anycompatible LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce($1, $2)
$$;
CREATE FUNCTION rs.convert_timezone(text, text, timestamp) RETURNS timestamp LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT ($3 AT TIME ZONE $1) AT TIME ZONE $2
$$;
CREATE FUNCTION rs.pg_last_copy_count() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('rs.copy_count', true), '')::bigint
$$;

-- System views: a user sees what they may use.
CREATE VIEW rs.svv_tables AS
    SELECT current_database()::text AS table_catalog, nspname::text AS table_schema, relname::text AS table_name,
        CASE WHEN relkind IN ('v', 'm') THEN 'VIEW' ELSE 'BASE TABLE' END AS table_type
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm') AND has_schema_privilege(n.oid, 'USAGE')
        AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE');
CREATE VIEW rs.svv_columns AS
    SELECT table_catalog::text, table_schema::text, table_name::text, column_name::text, ordinal_position::integer,
        column_default::text, is_nullable::text, {_TYPE} AS data_type, character_maximum_length::integer,
        numeric_precision::integer, numeric_scale::integer
    FROM information_schema.columns;
CREATE VIEW rs.svv_default_privileges AS
    SELECT n.nspname::text AS schema_name, CASE defaclobjtype WHEN 'r' THEN 'RELATION' ELSE defaclobjtype::text END
        AS object_type, o.rolname::text AS owner_name, a.privilege_type,
        coalesce(g.rolname, 'public')::text AS grantee_name
    FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(defaclacl) a LEFT JOIN pg_namespace n ON n.oid = defaclnamespace
    JOIN pg_roles o ON o.oid = defaclrole LEFT JOIN pg_roles g ON g.oid = a.grantee;
CREATE VIEW rs.pg_table_def AS
    SELECT nspname AS schemaname, relname AS tablename, attname AS "column",
        replace(format_type(atttypid, atttypmod), 'jsonb', 'super') AS "type", 'none' AS encoding,
        attnotnull AS "notnull"
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
    WHERE attnum > 0 AND relkind IN ('r', 'v', 'm') AND NOT attisdropped;
CREATE TABLE rs.load_errors (
    session_id integer, usename text, query_id bigint,
    start_time timestamp DEFAULT (clock_timestamp() AT TIME ZONE 'UTC'),
    file_name text, line_number bigint, column_name text, column_type text, error_code integer, error_message text
);
CREATE VIEW rs.sys_load_error_detail AS SELECT * FROM rs.load_errors
    WHERE usename = session_user OR (SELECT rolsuper FROM pg_roles WHERE rolname = session_user);
CREATE VIEW rs.stl_load_errors AS
    SELECT session_id AS session, query_id AS query, start_time AS starttime, file_name AS filename, line_number,
        column_name AS colname, column_type AS type, error_code AS err_code, error_message AS err_reason
    FROM rs.sys_load_error_detail;
GRANT SELECT ON rs.svv_tables, rs.svv_columns, rs.svv_default_privileges, rs.pg_table_def, rs.sys_load_error_detail,
    rs.stl_load_errors TO PUBLIC;

-- Keys are not enforced, and a VARCHAR counts bytes: seen to after every statement that makes or changes a table.
CREATE FUNCTION rs.as_redshift() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog AS $$
DECLARE made record; found record;
BEGIN
    IF current_setting('rs.inside', true) = 'yes' THEN RETURN; END IF;
    PERFORM set_config('rs.inside', 'yes', true);
    FOR made IN SELECT DISTINCT objid FROM pg_event_trigger_ddl_commands()
        WHERE classid = 'pg_class'::regclass AND object_type = 'table' LOOP
        FOR found IN SELECT conname FROM pg_constraint WHERE conrelid = made.objid AND contype IN ('p', 'u', 'f') LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', made.objid::regclass, found.conname);
        END LOOP;
        FOR found IN SELECT attname, format('bytes_%s_%s', attnum, atttypmod - 4) AS named, atttypmod - 4 AS bytes
            FROM pg_attribute WHERE attrelid = made.objid AND atttypid IN ('varchar'::regtype, 'bpchar'::regtype)
            AND atttypmod > 4 AND attnum > 0 AND NOT attisdropped LOOP
            IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = made.objid AND conname = found.named) THEN
                EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (octet_length(%I) <= %s)',
                    made.objid::regclass, found.named, found.attname, found.bytes);
            END IF;
        END LOOP;
    END LOOP;
    PERFORM set_config('rs.inside', 'no', true);
END $$;
CREATE EVENT TRIGGER as_redshift ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO',
    'ALTER TABLE') EXECUTE FUNCTION rs.as_redshift();
"""
"""Makes all of it. Run once, by a superuser, in the database the others are copied from."""
