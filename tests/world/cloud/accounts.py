"""The accounts and the region of the world."""

HOME_ACCOUNT = "123456789012"
OTHER_ACCOUNT = "210987654321"
HOME_REGION = "us-east-1"
