#!/usr/bin/env bash
# promtool 2.42 (Debian 12): `check metrics` knows the text format 0.0.4 alone. What the reference client library for
# Python writes as OpenMetrics has no help text for it, and it exits 3.
#
# In OpenMetrics the HELP and TYPE of a counter name the family ("jobs"), and its sample has the suffix "_total". The
# text format names the sample in both. promtool reads one as the other without a word about the format, so that each
# counter of a correct exposition is a fault. Prometheus itself, of the same version, asks for OpenMetrics when it
# scrapes. A server that answers OpenMetrics to everybody therefore fails a check in continuous integration.
#
# Seen with promtool 2.42.0+ds-5+deb12u1 and prometheus-client 0.21.1. Output: "text: exit 0, says nothing",
# "openmetrics: exit 3, says jobs_total no help text". Needs Debian 12 for the package; nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# apt's own user cannot write here.
apt-get -qq -o APT::Sandbox::User="$(id -un)" download prometheus=2.42.0+ds-5+deb12u1
dpkg-deb --extract prometheus_*.deb unpacked
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check prometheus-client==0.21.1
cat > expose.py <<'PYTHON'
import sys

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

disable_created_metrics()
registry = CollectorRegistry()
Counter("jobs", "Jobs that are done.", registry=registry).inc(3)
Gauge("depth", "Jobs that wait.", registry=registry).set(2)
generate = {"text": generate_latest, "openmetrics": generate_openmetrics}[sys.argv[1]]
sys.stdout.buffer.write(generate(registry))
PYTHON
found=
for format in text openmetrics; do
    venv/bin/python expose.py "$format" > "$format"
    code=0
    said=$(unpacked/usr/bin/promtool check metrics < "$format" 2>&1) || code=$?
    found+="$format: exit $code, says ${said:-nothing}"$'\n'
done
printf '%s' "$found"
[ "$found" = $'text: exit 0, says nothing\nopenmetrics: exit 3, says jobs_total no help text\n' ]
