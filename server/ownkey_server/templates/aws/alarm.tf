
# Tells of every change of the key's state, policy, material and rotation. EventBridge hears of them from CloudTrail: the
# account needs a trail that records management events. The second rule needs none.
@@topic

resource "aws_cloudwatch_event_rule" "@@{place}_changed" {@@provider
  name        = "@@name-changed"
  description = "Somebody changed the key of tenant @@tenant"

  event_pattern = jsonencode({
    "source" : ["aws.kms"],
    "detail-type" : ["AWS API Call via CloudTrail"],
    "detail" : {
      "eventSource" : ["kms.amazonaws.com"],
      "eventName" : local.changes,
      "resources" : { "ARN" : [@@key.arn] }
    }
  })
}

resource "aws_cloudwatch_event_rule" "@@{place}_gone" {@@provider
  name        = "@@name-gone"
  description = "The key of tenant @@tenant was deleted, or its imported material has expired"

  event_pattern = jsonencode({
    "source" : ["aws.kms"],
    "detail-type" : ["KMS CMK Deletion", "KMS Imported Key Material Expiration"],
    "resources" : [@@key.arn]
  })
}

resource "aws_cloudwatch_event_target" "@@{place}_changed" {@@provider
  rule = aws_cloudwatch_event_rule.@@{place}_changed.name
  arn  = aws_sns_topic.@@place.arn
}

resource "aws_cloudwatch_event_target" "@@{place}_gone" {@@provider
  rule = aws_cloudwatch_event_rule.@@{place}_gone.name
  arn  = aws_sns_topic.@@place.arn
}
