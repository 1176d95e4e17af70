
resource "aws_sns_topic_subscription" "@@place" {@@provider
  topic_arn = aws_sns_topic.@@place.arn
  protocol  = "email"
  endpoint  = "@@email"
}
