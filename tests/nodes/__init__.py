"""Kill, stop and cut off nodes that share one PostgreSQL: `python -m tests.nodes --help`.

Three real server processes share a database server of their own. Producers publish to any of them, as behind a load
balancer, and send again what was not acknowledged. One reader follows the feed of events at any node. Twelve webhooks
get the events: in strict order with a healthy and with an erratic receiver, without order, and with a rate limit.
Triggers in the database note each change of a slot's owner, and who owned the slot at the commit of each attempt.

A scenario does one thing to the nodes, a schedule several from a random seed. Then all must go on, everything must be
delivered, and SIGTERM must end each node with status 0. `audit.py` compares the records:
- every acknowledged event is stored, is once in the feed, and was delivered to each of its webhooks;
- sequences have no gap and follow the order of each producer; in strict order, the first attempts follow them;
- a request is repeated only where a webhook changed hands without its owner's doing, at most as often as requests may
  be in flight;
- after another node has taken a webhook, at most one more request comes on each connection of the node before;
- no attempt is recorded by a node that has lost the webhook, and no slot is taken from a living node;
- the rate limit holds, over all nodes;
- no transactions wait for each other in a circle.
"""
