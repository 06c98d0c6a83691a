"""A team's tracking server on this machine: PostgreSQL, passwords, artifacts on disk or in S3."""
