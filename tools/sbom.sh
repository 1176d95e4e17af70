#!/bin/sh
# What an installed server consists of, as CycloneDX 1.6: build/sbom.json. The same lock gives the same bytes.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
PYTHONWARNINGS=ignore .venv/bin/cyclonedx-py requirements requirements/server.txt --pyproject pyproject.toml --output-reproducible \
    --sv 1.6 --of JSON --output-file build/sbom.json --validate --short-PURLs
echo "build/sbom.json: $(grep -c '"bom-ref"' build/sbom.json) components"
