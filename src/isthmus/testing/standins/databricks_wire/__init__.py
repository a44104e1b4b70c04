"""A Databricks SQL warehouse with Unity Catalog, as far as the official driver sees it: Thrift over HTTPS, on DuckDB.

The wire is the driver's own generated TCLIService; results travel as Arrow, large ones as files behind links (cloud
fetch). Databricks' SQL is translated by sqlglot. Statements and functions it does not know are refused with Databricks'
own error conditions, never passed over. Privileges are kept and enforced as Unity Catalog does for USE CATALOG, USE
SCHEMA, SELECT, MODIFY, CREATE and MANAGE.
"""
