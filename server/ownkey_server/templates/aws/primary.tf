# Terraform, for the account of @@tenant's keys: a multi-Region key of AWS KMS in @@region with its replicas, the role
# by which ownkey uses them, and a word to you when somebody changes one of them.
# Made by `ownkey aws template`; docs/aws-onboarding.md says what each part is for.
#   terraform init && terraform apply

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.49"
    }
  }
}

provider "aws" {
  region = "@@region"
}

data "aws_partition" "current" {}
data "aws_caller_identity" "current" {}

locals {
  root = "arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root"

  # A replica has a policy of its own: the same for all, and each must be changed to take something back everywhere.
  key_policy = jsonencode(@@key_policy)
  changes = @@event_names
}

# Who ownkey is in this account. Nobody but the provider's principal may become it, and only with the external id of
# this tenant: the provider cannot be made to use it in another customer's name. It has no policy of IAM, and must get
# none: the key's policy is all that lets it in, and what you take back there is taken back.
resource "aws_iam_role" "ownkey" {
  name                 = "@@role_name"
  path                 = "@@role_path"
  description          = "ownkey uses keys of tenant @@tenant"
  max_session_duration = 3600

  assume_role_policy = jsonencode(@@trust_policy)
}

resource "aws_kms_key" "primary" {
  description             = "ownkey, tenant @@tenant"
  multi_region            = true
  enable_key_rotation     = true
  rotation_period_in_days = 365
  deletion_window_in_days = 30
  policy                  = local.key_policy
  tags                    = { ownkey-tenant = "@@tenant" }

  lifecycle {
    prevent_destroy = true # with the key goes everything that it protects
  }
}

# For people to find it by. ownkey names keys by their ARN alone.
resource "aws_kms_alias" "primary" {
  name          = "@@alias"
  target_key_id = aws_kms_key.primary.key_id
}
@@alarm
output "key_arns" {
  description = "What to tell the provider, in order of preference"
  value       = @@key_arns
}

output "role_arn" {
  description = "The role by which the provider uses the keys"
  value       = aws_iam_role.ownkey.arn
}
