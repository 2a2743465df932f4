"""What several floors need and none of them is about."""
