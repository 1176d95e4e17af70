# The ownkey server. Build with any engine: docker build -t ownkey .
# The base can be another image with Python 3.11 or later: --build-arg BASE=...
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/ownkey
COPY requirements/server.txt requirements/
RUN /opt/ownkey/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY server server
RUN /opt/ownkey/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/ownkey/bin/python -m pip uninstall --yes pip hatchling editables

FROM ${BASE}
RUN groupadd --system --gid 10001 ownkey \
    && useradd --system --uid 10001 --gid ownkey --home-dir /var/lib/ownkey --create-home --shell /usr/sbin/nologin ownkey
COPY --from=build /opt/ownkey /opt/ownkey
ENV PATH=/opt/ownkey/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OWNKEY_CONFIG=/etc/ownkey/ownkey.toml
USER 10001:10001
# What must outlive a container goes here: point [storage] url (SQLite) and [audit] signing_key_file at this folder.
WORKDIR /var/lib/ownkey
# With TLS, set server.health_listen to a loopback address: the check asks there, by the settings in OWNKEY_CONFIG.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python3", "-m", "ownkey_server.health"]
ENTRYPOINT ["ownkey"]
CMD ["serve"]
