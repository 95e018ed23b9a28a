"""What a part serves over HTTP: Prometheus' metrics, and how it is."""

import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


def get(url: str, timeout: float = 5) -> tuple[int, str]:
    """The status and the text of a page.

    Raises:
        OSError: nobody answers, or not in time.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def get_json(url: str) -> tuple[int, Any]:
    """The status and the object of a page."""
    status, text = get(url)
    return status, json.loads(text)


def samples(url: str) -> dict[str, float]:
    """All that a part's /metrics says, as in Prometheus: `name{label="value"}` to its value."""
    status, text = get(url + "/metrics")
    assert status == 200, text
    return {
        sample.name + _labels(sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"
