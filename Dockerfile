# Two images: `service`, the last stage and so the default, and `training`. docs/image.md describes
# both: what is in them, how they are built for two architectures, and why two builds are equal.
# The base by tag, and by digest too where one is given: --build-arg BASE_DIGEST=@sha256:…
ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG BASE_DIGEST=""

# What the code depends on: wheels whose hashes are in the lock, and nothing else.
# The base's tag stands in the argument (DL3006); this stage never runs as a service (DL3057).
# hadolint ignore=DL3006,DL3057
FROM ${BASE}${BASE_DIGEST} AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/image/install /usr/local/bin/install-locked

# hadolint ignore=DL3006,DL3057
FROM base AS service-build
COPY deploy/image/service.txt /tmp/lock.txt
RUN install-locked /tmp/lock.txt
COPY models /app/models
COPY service /app/service
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

# hadolint ignore=DL3006,DL3057
FROM base AS training-build
COPY deploy/image/training.txt /tmp/lock.txt
RUN install-locked /tmp/lock.txt
COPY models/*.py /app/models/
COPY training /app/training
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

# The base without what installs programs.
# hadolint ignore=DL3006,DL3057
FROM ${BASE}${BASE_DIGEST} AS runtime
COPY deploy/image/strip /tmp/strip
RUN /tmp/strip && rm /tmp/strip
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app

FROM runtime AS training
COPY --from=training-build /opt/venv /opt/venv
COPY --from=training-build /app /app
# Runs and bundles are written to the working directory, by whatever user of group 0.
RUN mkdir -m 2775 /work && chgrp 0 /work
WORKDIR /work
ENV PYTHONPATH=/app HOME=/tmp
LABEL org.opencontainers.image.title="upright-training" \
      org.opencontainers.image.description="Trains a DQN for CartPole-v1 and exports it as a bundle" \
      org.opencontainers.image.licenses="MIT"
USER 10001:0
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "training"]

FROM runtime AS service
COPY --from=service-build /opt/venv /opt/venv
COPY --from=service-build /app /app
ENV UPRIGHT_HOST=0.0.0.0 UPRIGHT_PORT=8000
LABEL org.opencontainers.image.title="upright" \
      org.opencontainers.image.description="Answers CartPole states with Q-values and the greedy action" \
      org.opencontainers.image.licenses="MIT"
# A number, so that an orchestrator can see that it is not root. Any other works too: nothing is
# written, and all may read.
USER 10001:0
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=2s --start-period=10s \
    CMD ["python", "-m", "service", "health"]
# No CMD: what stands behind the image's name are flags of the service.
ENTRYPOINT ["python", "-m", "service"]
