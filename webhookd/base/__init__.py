"""What every part uses: models, clock, ids, errors, and how input is read. Imports nothing else of webhookd."""
