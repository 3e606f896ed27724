"""Bugs for the simulation to find: the server's parts with one of them misbehaving. The product has no switch for any.

`PLANTED` names them; `tests/simulation` must find each within `MOST_SEEDS` seeds.
"""

from tests.simulation import bugs, bugs_at_edges, bugs_of_change, bugs_of_time
from tests.simulation.life import Parts

MOST_SEEDS = 50

PLANTED: dict[str, Parts] = {
    "acks before the commit": Parts(journal=bugs.AcksEarly),
    "forgets ids": Parts(journal=bugs.ForgetsIds),
    "loses records": Parts(journal=bugs.LosesRecords),
    "loses records while the disk is full": Parts(journal=bugs.LosesRecordsWhenFull),
    "counts a retry twice": Parts(journal=bugs.CountsTwice),
    "sends again what has succeeded": Parts(journal=bugs.RetriesSucceeded),
    "stores no state of endpoints": Parts(journal=bugs.StoresNoState),
    "swaps the order": Parts(journal=bugs.SwapsOrder),
    "drops a delivery on a refill": Parts(journal=bugs.DropsOnRefill),
    "forgets what is in flight": Parts(journal=bugs.ForgetsFlights),
    "alters bodies": Parts(journal=bugs.AltersBodies),
    "skips an endpoint after a crash": Parts(journal=bugs.SkipsEndpoint),
    "trusts a look-up": Parts(journal=bugs.TrustsALookUp),
    "ignores Retry-After": Parts(sender=bugs.IgnoresRetryAfter),
    "sends twice where no answer came": Parts(sender=bugs.SendsTwice),
    "ignores the breaker": Parts(router=bugs.IgnoresBreaker),
    "ignores the rate": Parts(router=bugs.IgnoresRate),
    "ignores the order": Parts(router=bugs.IgnoresOrder),
    "forgets the breaker on a restart": Parts(router=bugs.ForgetsBreaker),
    "loses wakes": Parts(router=bugs.LosesWakes),
    "leaves the queue of the deleted": Parts(router=bugs.CancelsNothing),
    "sends to the inactive": Parts(router=bugs.SendsToInactive),
    "forgets ids on a restart": Parts(journal=bugs_at_edges.ForgetsIdsOnRestart),
    "takes half an answer for a yes": Parts(sender=bugs_at_edges.TakesHalfForYes),
    "ignores a change of order": Parts(router=bugs_at_edges.IgnoresChangeOfOrder),
    "drops what should be held": Parts(router=bugs_at_edges.DropsHeld),
    "keeps the catalogue in memory": Parts(journal=bugs_at_edges.ForgetsCatalogue),
    "tells everything twice": Parts(router=bugs_at_edges.TellsTwice),
    "tells apart": Parts(journal=bugs_at_edges.TellsApart),
    "signs with a secret of before": Parts(router=bugs_at_edges.KeepsSecrets),
    "signs without the secret of before": Parts(router=bugs_at_edges.ForgetsSecrets),
    "answers out of turn": Parts(connection=bugs_at_edges.AnswersOutOfTurn),
    "keeps a client that reads nothing": Parts(connection=bugs_at_edges.KeepsDeaf),
    "heeds old answers": Parts(router=bugs_of_change.HeedsOldAnswers),
    "forgets to forgive": Parts(router=bugs_of_change.ForgetsToForgive),
    "sends all after a pause": Parts(router=bugs_of_change.SendsAllAfterAPause),
    "sends all after an outage": Parts(router=bugs_of_change.SendsAllAfterAnOutage),
    "ignores the concurrency": Parts(router=bugs_of_change.IgnoresConcurrency),
    "trusts the wall clock": Parts(clock=bugs_of_time.WallClock),
    "leaves the queue where the clock was": Parts(journal=bugs_of_time.MovesNoQueue),
    "leaves endpoints where the clock was": Parts(router=bugs_of_time.MovesNoEndpoint),
    "fills buckets as the clock is set": Parts(router=bugs_of_time.FillsBuckets),
    "corrects nothing": Parts(router=bugs_of_time.CorrectsNothing),
    "takes a rest for an outage": Parts(router=bugs_of_time.TakesARestForAnOutage),
    "expires too early": Parts(router=bugs_at_edges.ExpiresEarly),
}
