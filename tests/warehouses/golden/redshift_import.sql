-- Run in the database that Isthmus is to work in, as a superuser. Safe to run twice.

-- Isthmus comes from these addresses. SQL cannot let them in: the security group of the cluster or
-- workgroup does (which also has to be publicly accessible, or reached through a tunnel):
--   aws ec2 authorize-security-group-ingress --group-id sg-… --protocol tcp --port 5439 --cidr 192.0.2.7/32

CREATE SCHEMA IF NOT EXISTS "klaviyo_tmp";

CREATE OR REPLACE PROCEDURE "klaviyo_tmp"._isthmus_user() AS $isthmus$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_user WHERE usename = 'isthmus') THEN
        EXECUTE 'CREATE USER "isthmus" PASSWORD DISABLE';
    END IF;
END;
$isthmus$ LANGUAGE plpgsql;
CALL "klaviyo_tmp"._isthmus_user();
DROP PROCEDURE "klaviyo_tmp"._isthmus_user();
-- The password is not in this script. Set it yourself:
--   ALTER USER "isthmus" PASSWORD '…';
ALTER USER "isthmus" SESSION TIMEOUT 3600;

-- Where exported tables go: Isthmus owns them, so that it can add a column.
CREATE SCHEMA IF NOT EXISTS "exports";

-- What Isthmus may read: the tables and views here, now and in future. Future ones are those made by the user that
-- runs this; for another one add: ALTER DEFAULT PRIVILEGES FOR USER its_name IN SCHEMA …
CREATE SCHEMA IF NOT EXISTS "klaviyo_import_from_dwh";
GRANT USAGE ON SCHEMA "klaviyo_import_from_dwh" TO "isthmus";
GRANT SELECT ON ALL TABLES IN SCHEMA "klaviyo_import_from_dwh" TO "isthmus";
ALTER DEFAULT PRIVILEGES IN SCHEMA "klaviyo_import_from_dwh" GRANT SELECT ON TABLES TO "isthmus";

-- Isthmus's own short-lived tables.
GRANT USAGE, CREATE ON SCHEMA "klaviyo_tmp" TO "isthmus";
