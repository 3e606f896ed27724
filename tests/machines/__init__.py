"""webhookd on machines of its own: under a real systemd, and in a container that its Dockerfile makes."""
