"""Where requests may go, and how: the verdict on URLs and addresses, names, and the egress proxy."""
