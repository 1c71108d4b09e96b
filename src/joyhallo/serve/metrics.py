"""Numbers for Prometheus: requests, uploads, jobs, space."""

from joyhallo.serve.jobs import Jobs
from joyhallo.serve.records import ACTIVE, FINISHED


class Metrics:
    """One registry a service; nothing global."""

    def __init__(self, jobs: Jobs) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.jobs = jobs
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "joyhallo_requests", "Requests, by route and status", ["route", "status"], registry=self.registry
        )
        self.latency = Histogram("joyhallo_request_seconds", "Time of a request, by route", ["route"], registry=self.registry)
        self.refused = Counter("joyhallo_uploads_refused", "Uploads whose content was refused", registry=self.registry)
        self.states = Gauge("joyhallo_jobs", "Jobs, by status", ["status"], registry=self.registry)
        self.kept = Gauge("joyhallo_kept_bytes", "Bytes of all jobs on disk", registry=self.registry)

    def seen(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, str(status)).inc()
        self.latency.labels(route).observe(seconds)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        from prometheus_client import generate_latest

        counts = self.jobs.records.counts()
        for status in (*ACTIVE, *FINISHED):
            self.states.labels(status).set(counts.get(status, 0))
        self.kept.set(self.jobs.records.kept_bytes())
        return generate_latest(self.registry)
