"""What a user of each client library writes; each runs in that library's environment and imports nothing of ours."""
