"""The page at `/` where people watch the policy, push the pole and judge what they see."""
