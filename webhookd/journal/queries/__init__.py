"""The statements behind the store's methods, as functions over a peewee database."""
