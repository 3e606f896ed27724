"""The bugs that the simulation must find, each within `MOST_SEEDS` seeds.

`PLANTED` has for each the parts of a server, one of which is wrong. The product has no switch for any of them.
"""

from tests.simulation import bugs, bugs_at_edges, bugs_of_change, bugs_of_time
from tests.simulation.life import Parts

MOST_SEEDS = 200

PLANTED: dict[str, Parts] = {
    "acknowledges before the commit": Parts(journal=bugs.AcksEarly),
    "ignores ids": Parts(journal=bugs.IgnoresIds),
    "loses attempts": Parts(journal=bugs.LosesAttempts),
    "loses attempts while the disk is full": Parts(journal=bugs.LosesAttemptsWhenFull),
    "counts a retry twice": Parts(journal=bugs.CountsTwice),
    "retries succeeded deliveries": Parts(journal=bugs.RetriesSucceeded),
    "stores no state of endpoints": Parts(journal=bugs.StoresNoState),
    "swaps the order": Parts(journal=bugs.SwapsOrder),
    "drops a delivery on a refill": Parts(journal=bugs.DropsOnRefill),
    "ignores deliveries in flight": Parts(journal=bugs.IgnoresInFlight),
    "alters bodies": Parts(journal=bugs.AltersBodies),
    "skips an endpoint after a crash": Parts(journal=bugs.SkipsEndpoint),
    "assumes that a delivery still exists": Parts(journal=bugs.AssumesExistence),
    "ignores Retry-After": Parts(sender=bugs.IgnoresRetryAfter),
    "sends twice without an answer": Parts(sender=bugs.SendsTwice),
    "ignores the breaker": Parts(router=bugs.IgnoresBreaker),
    "ignores the rate limit": Parts(router=bugs.IgnoresRate),
    "ignores the order": Parts(router=bugs.IgnoresOrder),
    "resets the breaker on a restart": Parts(router=bugs.ResetsBreaker),
    "loses wake-ups": Parts(router=bugs.LosesWakes),
    "keeps the queue of a deleted endpoint": Parts(router=bugs.CancelsNothing),
    "sends to disabled endpoints": Parts(router=bugs.SendsToInactive),
    "ignores ids after a restart": Parts(journal=bugs_at_edges.IgnoresIdsAfterRestart),
    "counts a cut-off answer as success": Parts(sender=bugs_at_edges.CountsCutOffAnswers),
    "ignores a change of the ordering": Parts(router=bugs_at_edges.IgnoresChangeOfOrder),
    "drops held events": Parts(router=bugs_at_edges.DropsHeld),
    "keeps the catalogue only in memory": Parts(journal=bugs_at_edges.LosesCatalogue),
    "publishes operational events twice": Parts(router=bugs_at_edges.PublishesTwice),
    "publishes a failure before its attempt": Parts(journal=bugs_at_edges.PublishesBeforeAttempt),
    "signs too long with the previous secret": Parts(router=bugs_at_edges.KeepsSecrets),
    "signs without the previous secret": Parts(router=bugs_at_edges.DropsSecrets),
    "answers in the wrong order": Parts(connection=bugs_at_edges.AnswersOutOfOrder),
    "keeps a client that reads nothing": Parts(connection=bugs_at_edges.WaitsForClients),
    "counts answers of the old URL": Parts(router=bugs_of_change.CountsOldAnswers),
    "keeps the failure state after a change": Parts(router=bugs_of_change.KeepsFailureState),
    "sends all after a pause": Parts(router=bugs_of_change.SendsAllAfterAPause),
    "sends all after an outage": Parts(router=bugs_of_change.SendsAllAfterAnOutage),
    "ignores the concurrency": Parts(router=bugs_of_change.IgnoresConcurrency),
    "trusts the wall clock": Parts(clock=bugs_of_time.WallClock),
    "does not move the queue with the clock": Parts(journal=bugs_of_time.MovesNoQueue),
    "does not move endpoints with the clock": Parts(router=bugs_of_time.MovesNoEndpoint),
    "fills buckets when the clock is set": Parts(router=bugs_of_time.FillsBuckets),
    "corrects no times at a start": Parts(router=bugs_of_time.CorrectsNothing),
    "counts a stop as an outage": Parts(router=bugs_of_time.CountsGapsAsOutages),
    "expires too early": Parts(router=bugs_at_edges.ExpiresEarly),
}
