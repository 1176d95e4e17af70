
# Tells of every change of the role. IAM is one for all regions, and EventBridge hears of it in this one alone.
provider "aws" {
  alias  = "iam"
  region = "@@iam_region"
}

@@topic

resource "aws_cloudwatch_event_rule" "role_changed" {
  provider    = aws.iam
  name        = "@@name-role"
  description = "Somebody changed the role by which ownkey uses keys of tenant @@tenant"

  event_pattern = jsonencode({
    "source" : ["aws.iam"],
    "detail-type" : ["AWS API Call via CloudTrail"],
    "detail" : {
      "eventSource" : ["iam.amazonaws.com"],
      "eventName" : @@event_names,
      "requestParameters" : { "roleName" : [aws_iam_role.ownkey.name] }
    }
  })
}

resource "aws_cloudwatch_event_target" "role_changed" {
  provider = aws.iam
  rule     = aws_cloudwatch_event_rule.role_changed.name
  arn      = aws_sns_topic.role.arn
}
