-- Run in the SQL editor as the owner of the catalog or a metastore administrator. Safe to run twice.
--
-- Rights go to isthmus: a group of the account that a service principal is put into, or that service principal
-- itself, by its application id (the connection's field `principal`). Make it with the Databricks CLI:
--   databricks account groups create --display-name isthmus
--   databricks account service-principals create --display-name isthmus
-- put the second into the first, add the group to the workspace, and let it use the warehouse and nothing else of it:
--   databricks permissions update warehouses abc123 --json '{"access_control_list":
--     [{"group_name": "isthmus", "permission_level": "CAN_USE"}]}'
-- The token is not in this script. An administrator makes one for the service principal, and it ends in time:
--   databricks token-management create-obo-token APPLICATION_ID --comment isthmus --lifetime-seconds 7776000

-- Isthmus comes from these addresses. Where the workspace has IP access lists, let them in:
--   databricks ip-access-lists create --json '{"label": "isthmus", "list_type": "ALLOW",
--     "ip_addresses": ["192.0.2.7/32", "2001:db8::/48"]}'

GRANT USE CATALOG ON CATALOG `shop` TO `isthmus`;

-- What Isthmus may read: the tables, views and materialized views here, now and in future: a right on a schema holds
-- for whatever is made in it.
CREATE SCHEMA IF NOT EXISTS `shop`.`KLAVIYO_IMPORT_FROM_DWH`;
GRANT USE SCHEMA ON SCHEMA `shop`.`KLAVIYO_IMPORT_FROM_DWH` TO `isthmus`;
GRANT SELECT ON SCHEMA `shop`.`KLAVIYO_IMPORT_FROM_DWH` TO `isthmus`;

-- Isthmus makes nothing in Databricks: this schema stays empty.
CREATE SCHEMA IF NOT EXISTS `shop`.`KLAVIYO_TMP`;
GRANT USE SCHEMA ON SCHEMA `shop`.`KLAVIYO_TMP` TO `isthmus`;
