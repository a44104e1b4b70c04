-- For the dedicated SQL pool dwh of the workspace contoso-analytics. Safe to run twice.
-- Part 1 of 2: in the database master, as the workspace's SQL administrator. The password is not in here:
-- sqlcmd takes it from the environment variable ISTHMUS_PASSWORD; elsewhere write it in place of $(…).
IF NOT EXISTS (SELECT 1 FROM sys.sql_logins WHERE name = N'isthmus')
    EXEC (N'CREATE LOGIN [isthmus] WITH PASSWORD = N''$(ISTHMUS_PASSWORD)''');
GO
-- Isthmus comes from these addresses: let them in, with the Azure CLI.
--   az synapse workspace firewall-rule create --workspace-name contoso-analytics --resource-group … --name isthmus-1 --start-ip-address 192.0.2.7 --end-ip-address 192.0.2.7
--   az synapse workspace firewall-rule create --workspace-name contoso-analytics --resource-group … --name isthmus-2 --start-ip-address 198.51.100.0 --end-ip-address 198.51.100.255
--   2001:db8::/64: a workspace's firewall knows IPv4 only

-- Part 2 of 2: in the pool dwh, as somebody who owns it (db_owner).
IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE name = N'isthmus')
    EXEC (N'CREATE USER [isthmus] FOR LOGIN [isthmus]');
IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE name = N'isthmus_role')
    EXEC (N'CREATE ROLE [isthmus_role]');
EXEC sp_addrolemember N'isthmus_role', N'isthmus';
GO

-- Where exported tables go.
IF SCHEMA_ID(N'klaviyo') IS NULL EXEC (N'CREATE SCHEMA [klaviyo]');
GO
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[klaviyo] TO [isthmus_role];
-- COPY INTO asks for this right on the whole pool; it gives none on any table.
GRANT ADMINISTER DATABASE BULK OPERATIONS TO [isthmus_role];
GRANT CREATE TABLE TO [isthmus_role];
GO
IF OBJECT_ID(N'"klaviyo"."_isthmus_receipts"') IS NULL
EXEC (N'CREATE TABLE "klaviyo"."_isthmus_receipts" (
    "batch_id" nvarchar(4000) COLLATE Latin1_General_100_BIN2 NULL,
    "table_name" nvarchar(4000) COLLATE Latin1_General_100_BIN2 NULL,
    "after_seq" bigint NULL,
    "upto_seq" bigint NULL,
    "rows" bigint NULL,
    "loaded_at" datetimeoffset(6) NULL
)
WITH (HEAP, DISTRIBUTION = ROUND_ROBIN)');
GO
INSERT INTO "klaviyo"."_isthmus_receipts" SELECT N'_isthmus_turn', N'', NULL, NULL, 0, CAST(SYSUTCDATETIME() AS DATETIMEOFFSET(6)) WHERE NOT EXISTS (SELECT 1 FROM "klaviyo"."_isthmus_receipts" WHERE "batch_id" = N'_isthmus_turn');
GO
IF OBJECT_ID(N'"klaviyo"."metric"') IS NULL
EXEC (N'CREATE TABLE "klaviyo"."metric" (
    "id" nvarchar(4000) COLLATE Latin1_General_100_BIN2 NULL,
    "name" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "integration_name" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "created" datetimeoffset(6) NULL,
    "updated" datetimeoffset(6) NULL,
    "_isthmus_seq" bigint NULL
)
WITH (HEAP, DISTRIBUTION = HASH ("id"))');
GO
IF OBJECT_ID(N'"klaviyo"."profile"') IS NULL
EXEC (N'CREATE TABLE "klaviyo"."profile" (
    "id" nvarchar(4000) COLLATE Latin1_General_100_BIN2 NULL,
    "external_id" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "email" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "phone_number" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "first_name" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "last_name" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "title" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "organization" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "image" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "locale" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_address1" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_address2" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_city" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_region" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_country" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_zip" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_latitude" float NULL,
    "location_longitude" float NULL,
    "location_timezone" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "location_ip" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "properties" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "subscriptions" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "created" datetimeoffset(6) NULL,
    "updated" datetimeoffset(6) NULL,
    "last_event_date" datetimeoffset(6) NULL,
    "_isthmus_seq" bigint NULL
)
WITH (HEAP, DISTRIBUTION = HASH ("id"))');
GO
IF OBJECT_ID(N'"klaviyo"."event"') IS NULL
EXEC (N'CREATE TABLE "klaviyo"."event" (
    "id" nvarchar(4000) COLLATE Latin1_General_100_BIN2 NULL,
    "metric_id" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "profile_id" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "datetime" datetimeoffset(6) NULL,
    "uuid" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "event_properties" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "metric_name" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "integration_name" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "value" float NULL,
    "value_currency" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "unique_id" nvarchar(max) COLLATE Latin1_General_100_BIN2 NULL,
    "ingested" datetimeoffset(6) NULL,
    "_isthmus_seq" bigint NULL
)
WITH (HEAP, DISTRIBUTION = HASH ("id"))');
GO

IF SCHEMA_ID(N'KLAVIYO_IMPORT_FROM_DWH') IS NULL EXEC (N'CREATE SCHEMA [KLAVIYO_IMPORT_FROM_DWH]');
GO

-- Isthmus's own short-lived tables.
IF SCHEMA_ID(N'KLAVIYO_TMP') IS NULL EXEC (N'CREATE SCHEMA [KLAVIYO_TMP]');
GO
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[KLAVIYO_TMP] TO [isthmus_role];
GO

-- The container for staging and its SAS token, by somebody who owns the storage account:
--   az storage container create --account-name contosostaging --name isthmus
--   az storage container generate-sas --account-name contosostaging --name isthmus --permissions rcwdl --https-only --expiry YYYY-MM-DDT00:00Z
