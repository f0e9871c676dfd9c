# The service image: the service, the contract and the committed bundle; no torch, no training code.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# The base's tag stands in the argument (DL3006); this stage never runs as a service (DL3057).
# hadolint ignore=DL3006,DL3057
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
# The distribution holds no code, so this installs what the service depends on and nothing else.
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --constraint constraints.txt . \
    && /opt/venv/bin/pip uninstall --yes pip setuptools \
    && find /opt/venv -name __pycache__ -prune -exec rm -r {} + \
    && python -m compileall -q /opt/venv/lib
COPY models /app/models
COPY service /app/service
RUN python -m compileall -q /app

# hadolint ignore=DL3006
FROM ${BASE}
LABEL org.opencontainers.image.title="upright" \
      org.opencontainers.image.description="Answers CartPole states with Q-values and the greedy action" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 UPRIGHT_HOST=0.0.0.0 UPRIGHT_PORT=8000
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=2s --start-period=10s \
    CMD ["python", "-m", "service", "health"]
CMD ["python", "-m", "service"]
