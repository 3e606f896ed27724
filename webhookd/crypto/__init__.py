"""What keeps secrets unreadable at rest: the vault, and where its master key comes from."""
