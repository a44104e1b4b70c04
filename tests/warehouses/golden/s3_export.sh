#!/usr/bin/env bash
# Sets up the bucket example-analytics for Isthmus. Run it with bash and the AWS CLI (version 2), as somebody who may make
# users and policies. Safe to run twice.
set -euo pipefail

if ! aws --region eu-central-1 s3api head-bucket --bucket example-analytics > /dev/null 2>&1; then
  aws --region eu-central-1 s3api create-bucket --bucket example-analytics --create-bucket-configuration LocationConstraint=eu-central-1 > /dev/null
fi

# Isthmus comes from these addresses; the policies below hold from nowhere else:
#   192.0.2.7/32
#   2001:db8::/32

if ! aws --region eu-central-1 iam get-user --user-name isthmus > /dev/null 2>&1; then
  aws --region eu-central-1 iam create-user --user-name isthmus > /dev/null
fi

# What it may do: list and use its own folders, and nothing else.
aws --region eu-central-1 iam put-user-policy --user-name isthmus --policy-name isthmus-example-analytics-isthmus-export --policy-document "$(cat << 'JSON'
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Sid": "Temporary",
      "Effect": "Allow",
      "Action": [
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload"
      ],
      "Resource": [
        "arn:aws:s3:::example-analytics/KLAVIYO_TMP/*"
      ],
      "Condition": {
        "IpAddress": {
          "aws:SourceIp": [
            "192.0.2.7/32",
            "2001:db8::/32"
          ]
        }
      }
    },
    {
      "Sid": "Tables",
      "Effect": "Allow",
      "Action": [
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload"
      ],
      "Resource": [
        "arn:aws:s3:::example-analytics/isthmus/*"
      ],
      "Condition": {
        "IpAddress": {
          "aws:SourceIp": [
            "192.0.2.7/32",
            "2001:db8::/32"
          ]
        }
      }
    },
    {
      "Sid": "List",
      "Effect": "Allow",
      "Action": [
        "s3:ListBucket"
      ],
      "Resource": [
        "arn:aws:s3:::example-analytics"
      ],
      "Condition": {
        "StringLike": {
          "s3:prefix": [
            "KLAVIYO_TMP/*",
            "isthmus/*"
          ]
        },
        "IpAddress": {
          "aws:SourceIp": [
            "192.0.2.7/32",
            "2001:db8::/32"
          ]
        }
      }
    }
  ]
}
JSON
)"
# If the bucket is encrypted with a key of your own (SSE-KMS), the key's policy must also allow it
# kms:GenerateDataKey and kms:Decrypt.

# Folders, so that a person sees them: what Isthmus may read, its own short-lived objects, and its tables,
# which it makes itself.
aws --region eu-central-1 s3api put-object --bucket example-analytics --key KLAVIYO_IMPORT_FROM_DWH/ > /dev/null
aws --region eu-central-1 s3api put-object --bucket example-analytics --key KLAVIYO_TMP/ > /dev/null
aws --region eu-central-1 s3api put-object --bucket example-analytics --key isthmus/klaviyo_metric/ > /dev/null
aws --region eu-central-1 s3api put-object --bucket example-analytics --key isthmus/klaviyo_profile/ > /dev/null
aws --region eu-central-1 s3api put-object --bucket example-analytics --key isthmus/klaviyo_event/ > /dev/null

# Parts of files that were never finished are thrown away after a day. A bucket has one list of rules: if there are some
# already, this one is only printed, for you to add it.
rules=$(cat << 'JSON'
{
  "Rules": [
    {
      "ID": "isthmus-example-analytics-isthmus-half-written",
      "Status": "Enabled",
      "Filter": {
        "Prefix": "isthmus/"
      },
      "AbortIncompleteMultipartUpload": {
        "DaysAfterInitiation": 1
      }
    }
  ]
}
JSON
)
there=$(aws --region eu-central-1 s3api get-bucket-lifecycle-configuration --bucket example-analytics \
  --query 'Rules[].ID' --output text 2> /dev/null || true)
if [ -z "$there" ] || [ "$there" = None ]; then
  aws --region eu-central-1 s3api put-bucket-lifecycle-configuration --bucket example-analytics --lifecycle-configuration "$rules"
elif [[ "$there" != *isthmus-example-analytics-isthmus-half-written* ]]; then
  echo "Add this rule to the bucket's lifecycle configuration: $rules"
fi

# The access key is not in this script. Make it where nobody looks over your shoulder; Isthmus needs it:
#   aws iam create-access-key --user-name isthmus
