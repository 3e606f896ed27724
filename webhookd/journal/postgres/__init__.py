"""What PostgreSQL alone needs of the journal: its connections, tables and errors."""
