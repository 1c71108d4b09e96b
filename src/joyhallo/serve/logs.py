"""Logs as lines of JSON: what happened to which job, never what is seen or heard in it."""

import json
import logging
import sys
import time

_FIELDS = ("job", "status", "note", "new", "crashes", "counted", "method", "route")


class JsonLines(logging.Formatter):
    """One object a line, with the fields that our own messages carry."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{when}.{record.msecs:03.0f}Z", "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def write_logs(level: str = "info") -> None:
    """Send the logs of the service and of its server to standard error, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("joyhallo.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
