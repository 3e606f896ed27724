"""What every package uses: models, clock, ids, errors and checks of input. It imports no other package of webhookd."""
