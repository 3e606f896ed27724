"""Kill the real process many times under load: `python -m tests.killing --help`.

Two producers post over HTTP, the others pipeline lines on the ingest socket, up to 64 unanswered. What a killed server
has not answered is sent again with the same id. Four webhooks get each event: strict order with a healthy receiver,
strict order with one that fails, cuts off or resets one request in seven, order by key with a slow one, and no order
with an erratic one. A kill comes when the server is ready, when an answer arrives, or within half a second of work;
one in four is followed by another during the next start. At the end the producers stop, 40 more events are submitted,
and the last kill comes when the last of them is answered. Then the receivers are healthy, the server is started, all
pending deliveries must be sent without another event, and SIGTERM must end it with status 0.

`audit.py` compares the records of the producers, the receivers and the journal, with SQL of its own:
- every acknowledged event is on disk, once for each id, with the submitted bytes, and nothing else is;
- each was delivered to each webhook with these bytes, and nothing is pending;
- sequences have no gap and follow the order of each producer; in strict order, and for each key, the first attempt of a
  delivery follows the success of the previous delivery;
- requests and recorded attempts agree, and attempts are numbered from 1;
- an attempt is repeated only after a kill, at most as often as requests were allowed in flight (1, 4 and 8), or when a
  reused connection ended without a byte of an answer;
- signatures verify with the libraries of Standard Webhooks, Svix and Stripe.
"""
