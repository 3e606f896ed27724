"""The real process killed under load, again and again: `python -m tests.killing --help`.

Two producers post over HTTP, the others pipeline lines on the ingest socket, up to 64 unanswered; what a killed server
has not answered is sent again under the same id. Four webhooks get each event: strict order with a healthy receiver,
strict order with one that fails, cuts or resets one request in seven, order by key with a slow one, no order with an
erratic one. Kills come as the server gets ready, as an answer arrives, or within half a second of work; one in four is
followed by another during the next start. At the end the producers stop, 40 more events arrive, and the last kill comes
as the last of them is answered. Then the receivers are healthy, the server is started, what was pending must go out by
itself, and SIGTERM must end it with status 0.

`audit.py` compares the producers', the receivers' and the journal's accounts, the last in SQL of its own:
- every acknowledged event is on disk, once for each id, with the submitted bytes, and nothing else is;
- each was delivered to each webhook with these bytes, and nothing is pending;
- sequences have no gap and follow the order of each producer; in strict order, and for each key, a delivery goes out
  first after the one in front of it has succeeded;
- requests and recorded attempts agree, and attempts are numbered from 1;
- an attempt is made again only for a kill, at most as often as requests were allowed in flight (1, 4 and 8), or where a
  reused connection ended without a byte of an answer;
- signatures verify with the libraries of Standard Webhooks, Svix and Stripe.
"""
