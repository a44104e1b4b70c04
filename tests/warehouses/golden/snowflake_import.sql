-- Run all of it in a worksheet, as a user with the roles SECURITYADMIN and SYSADMIN. Safe to run twice.
-- There is no secret in it. Rename things here, and in the connection:
SET isthmus_role = 'ISTHMUS';
SET isthmus_user = 'ISTHMUS_USER';
SET isthmus_warehouse = 'ISTHMUS_WH';
SET isthmus_database = 'ANALYTICS';
SET isthmus_schema = 'ANALYTICS.KLAVIYO';
SET isthmus_import = 'ANALYTICS.KLAVIYO_IMPORT_FROM_DWH';
SET isthmus_temp = 'ANALYTICS.KLAVIYO_TMP';

-- The role and the user.
USE ROLE SECURITYADMIN;
CREATE ROLE IF NOT EXISTS IDENTIFIER($isthmus_role);
GRANT ROLE IDENTIFIER($isthmus_role) TO ROLE SYSADMIN;
CREATE USER IF NOT EXISTS IDENTIFIER($isthmus_user) TYPE = SERVICE DEFAULT_ROLE = $isthmus_role
    DEFAULT_WAREHOUSE = $isthmus_warehouse COMMENT = 'Isthmus';
GRANT ROLE IDENTIFIER($isthmus_role) TO USER IDENTIFIER($isthmus_user);
-- A service signs in with a key pair. Make one:
--   openssl genrsa 2048 | openssl pkcs8 -topk8 -inform PEM -out key.p8 -nocrypt
--   openssl rsa -in key.p8 -pubout -out key.pub
-- give key.p8 to the connection, and register what is between the dashed lines of key.pub:
--   ALTER USER IDENTIFIER($isthmus_user) SET RSA_PUBLIC_KEY = '…';

-- The warehouse that statements run on, the database, and three schemas: for what is exported, for what may be
-- imported, and for Isthmus's own short-lived things.
USE ROLE SYSADMIN;
CREATE WAREHOUSE IF NOT EXISTS IDENTIFIER($isthmus_warehouse) WAREHOUSE_SIZE = XSMALL AUTO_SUSPEND = 60
    AUTO_RESUME = TRUE INITIALLY_SUSPENDED = TRUE;
CREATE DATABASE IF NOT EXISTS IDENTIFIER($isthmus_database);
CREATE SCHEMA IF NOT EXISTS IDENTIFIER($isthmus_schema);
CREATE SCHEMA IF NOT EXISTS IDENTIFIER($isthmus_import);
CREATE SCHEMA IF NOT EXISTS IDENTIFIER($isthmus_temp);

-- The rights of the role.
USE ROLE SECURITYADMIN;
GRANT USAGE ON WAREHOUSE IDENTIFIER($isthmus_warehouse) TO ROLE IDENTIFIER($isthmus_role);
GRANT USAGE ON DATABASE IDENTIFIER($isthmus_database) TO ROLE IDENTIFIER($isthmus_role);
GRANT USAGE ON SCHEMA IDENTIFIER($isthmus_schema) TO ROLE IDENTIFIER($isthmus_role);
GRANT USAGE ON SCHEMA IDENTIFIER($isthmus_import) TO ROLE IDENTIFIER($isthmus_role);
GRANT USAGE ON SCHEMA IDENTIFIER($isthmus_temp) TO ROLE IDENTIFIER($isthmus_role);
-- What may be imported: the tables and views that are there, and those to come.
GRANT SELECT ON ALL TABLES IN SCHEMA IDENTIFIER($isthmus_import) TO ROLE IDENTIFIER($isthmus_role);
GRANT SELECT ON ALL VIEWS IN SCHEMA IDENTIFIER($isthmus_import) TO ROLE IDENTIFIER($isthmus_role);
GRANT SELECT ON FUTURE TABLES IN SCHEMA IDENTIFIER($isthmus_import) TO ROLE IDENTIFIER($isthmus_role);
GRANT SELECT ON FUTURE VIEWS IN SCHEMA IDENTIFIER($isthmus_import) TO ROLE IDENTIFIER($isthmus_role);

-- The addresses Isthmus comes from: its user may come from there, and from nowhere else.
CREATE NETWORK POLICY IF NOT EXISTS ISTHMUS_USER_POLICY ALLOWED_IP_LIST = ('192.0.2.7', '198.51.100.0/24');
ALTER NETWORK POLICY ISTHMUS_USER_POLICY SET ALLOWED_IP_LIST = ('192.0.2.7', '198.51.100.0/24');
ALTER USER IDENTIFIER($isthmus_user) SET NETWORK_POLICY = ISTHMUS_USER_POLICY;
