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
GRANT CREATE TABLE TO [isthmus_role];
GO

-- What Isthmus may read: the tables and views in this schema, those of today and those of tomorrow.
IF SCHEMA_ID(N'KLAVIYO_IMPORT_FROM_DWH') IS NULL EXEC (N'CREATE SCHEMA [KLAVIYO_IMPORT_FROM_DWH]');
GO
GRANT SELECT ON SCHEMA::[KLAVIYO_IMPORT_FROM_DWH] TO [isthmus_role];
GO

-- Isthmus's own short-lived tables.
IF SCHEMA_ID(N'KLAVIYO_TMP') IS NULL EXEC (N'CREATE SCHEMA [KLAVIYO_TMP]');
GO
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[KLAVIYO_TMP] TO [isthmus_role];
GO
