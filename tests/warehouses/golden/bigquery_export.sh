#!/usr/bin/env bash
# Run in Cloud Shell, or where gcloud and bq are signed in as an owner of the project. Safe to run twice.
set -euo pipefail
project=my-shop-123456
account=isthmus@my-shop-123456.iam.gserviceaccount.com

gcloud services enable bigquery.googleapis.com bigquerystorage.googleapis.com --project="$project"

# The account Isthmus signs in with. Its key is not in this script; to make one:
#   gcloud iam service-accounts keys create key.json --iam-account=isthmus@my-shop-123456.iam.gserviceaccount.com
if ! gcloud iam service-accounts describe "$account" --project=my-shop-123456 > /dev/null 2>&1; then
    gcloud iam service-accounts create isthmus --project=my-shop-123456 --display-name=Isthmus
fi

# On the project there are only the rights to work at all: run queries and loads; it lets no table be seen.
gcloud projects add-iam-policy-binding "$project" --member=serviceAccount:isthmus@my-shop-123456.iam.gserviceaccount.com --role=roles/bigquery.jobUser --condition=None > /dev/null

# All other rights are on datasets, and hold for the tables and views that are there and that will be.
bq --project_id="$project" --location=EU query --quiet --use_legacy_sql=false <<'SQL'
-- Where exported tables go.
CREATE SCHEMA IF NOT EXISTS `my-shop-123456`.`klaviyo` OPTIONS(location = 'EU');
CREATE TABLE IF NOT EXISTS `my-shop-123456`.`klaviyo`.`_isthmus_receipts` (
    `batch_id` STRING,
    `table_name` STRING,
    `after_seq` INT64,
    `upto_seq` INT64,
    `rows` INT64,
    `loaded_at` TIMESTAMP
);
CREATE TABLE IF NOT EXISTS `my-shop-123456`.`klaviyo`.`metric` (
    `id` STRING,
    `name` STRING,
    `integration_name` STRING,
    `created` TIMESTAMP,
    `updated` TIMESTAMP,
    `_isthmus_seq` INT64
)
CLUSTER BY `_isthmus_seq`;
CREATE TABLE IF NOT EXISTS `my-shop-123456`.`klaviyo`.`profile` (
    `id` STRING,
    `external_id` STRING,
    `email` STRING,
    `phone_number` STRING,
    `first_name` STRING,
    `last_name` STRING,
    `title` STRING,
    `organization` STRING,
    `image` STRING,
    `locale` STRING,
    `location_address1` STRING,
    `location_address2` STRING,
    `location_city` STRING,
    `location_region` STRING,
    `location_country` STRING,
    `location_zip` STRING,
    `location_latitude` FLOAT64,
    `location_longitude` FLOAT64,
    `location_timezone` STRING,
    `location_ip` STRING,
    `properties` STRING,
    `subscriptions` STRING,
    `created` TIMESTAMP,
    `updated` TIMESTAMP,
    `last_event_date` TIMESTAMP,
    `_isthmus_seq` INT64
)
CLUSTER BY `_isthmus_seq`;
CREATE TABLE IF NOT EXISTS `my-shop-123456`.`klaviyo`.`event` (
    `id` STRING,
    `metric_id` STRING,
    `profile_id` STRING,
    `datetime` TIMESTAMP,
    `uuid` STRING,
    `event_properties` STRING,
    `metric_name` STRING,
    `integration_name` STRING,
    `value` FLOAT64,
    `value_currency` STRING,
    `unique_id` STRING,
    `ingested` TIMESTAMP,
    `_isthmus_seq` INT64
)
CLUSTER BY `_isthmus_seq`;
GRANT `roles/bigquery.dataEditor` ON SCHEMA `my-shop-123456`.`klaviyo` TO "serviceAccount:isthmus@my-shop-123456.iam.gserviceaccount.com";

CREATE SCHEMA IF NOT EXISTS `my-shop-123456`.`KLAVIYO_IMPORT_FROM_DWH` OPTIONS(location = 'EU');

-- Isthmus's own short-lived tables. What a killed process leaves there ends by itself after a day.
CREATE SCHEMA IF NOT EXISTS `my-shop-123456`.`KLAVIYO_TMP` OPTIONS(default_table_expiration_days = 1, location = 'EU');
GRANT `roles/bigquery.dataEditor` ON SCHEMA `my-shop-123456`.`KLAVIYO_TMP` TO "serviceAccount:isthmus@my-shop-123456.iam.gserviceaccount.com";
SQL

# BigQuery has no network rule of an account: whoever holds the key can sign in from anywhere. If the project
# lies in a VPC service perimeter, let Isthmus in by an access level of its addresses, in an ingress rule:
#   192.0.2.7
#   198.51.100.0/24
