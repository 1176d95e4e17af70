
provider "aws" {
  alias  = "@@place"
  region = "@@region"
}

resource "aws_kms_replica_key" "@@place" {
  provider                = aws.@@place
  primary_key_arn         = aws_kms_key.primary.arn
  description             = "ownkey, tenant @@tenant"
  deletion_window_in_days = 30
  policy                  = local.key_policy
  tags                    = { ownkey-tenant = "@@tenant" }

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_kms_alias" "@@place" {
  provider      = aws.@@place
  name          = "@@alias"
  target_key_id = aws_kms_replica_key.@@place.key_id
}
