resource "aws_sns_topic" "@@place" {@@provider
  name = "@@topic_name"
}

resource "aws_sns_topic_policy" "@@place" {@@provider
  arn = aws_sns_topic.@@place.arn

  policy = jsonencode({
    "Version" : "2012-10-17",
    "Statement" : [{
      "Sid" : "EventBridgeTells",
      "Effect" : "Allow",
      "Principal" : { "Service" : "events.amazonaws.com" },
      "Action" : "sns:Publish",
      "Resource" : aws_sns_topic.@@place.arn,
      # These rules, and nobody else's.
      "Condition" : { "ArnEquals" : { "aws:SourceArn" : [@@rules] } }
    }]
  })
}
@@subscription
