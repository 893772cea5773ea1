# The Runhook image: docker build -t runhook .
#
# Everything that pip installs comes from a lock file with hashes. For a build that never changes, pin the base image too:
#   docker build --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:… -t runhook .
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_NO_COMPILE=1 SOURCE_DATE_EPOCH=315532800
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src

# The dependencies are a layer of their own: it is rebuilt only when the lock changes.
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/runhook \
 && python -m pip --python /opt/runhook/bin/python install --require-hashes --requirement requirements.lock

# What the sinks `s3` and `queue` call, and what credentials come from. botocore describes 400 more services.
RUN find /opt/runhook/lib/python*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
    -not -name s3 -not -name sqs -not -name sns -not -name sts -not -name sso -not -name sso-oidc -not -name signin \
    -exec rm -r {} +

# The tools that build the wheel stay in this stage.
COPY requirements-build.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/python -m pip install --require-hashes --requirement requirements-build.lock

COPY . ./
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && python -m pip --python /opt/runhook/bin/python install --no-deps dist/*.whl \
 && /opt/runhook/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/runhook/lib

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Runhook" \
      org.opencontainers.image.description="Receives, stores and routes the results of Skyvern runs" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 runhook \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/runhook --shell /usr/sbin/nologin runhook \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/runhook
COPY --from=build /opt/runhook /opt/runhook
COPY deploy/entrypoint deploy/healthcheck /usr/local/bin/
COPY deploy/runhook.yaml /etc/runhook/runhook.yaml
ENV PATH=/opt/runhook/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    RUNHOOK_CONFIG=/etc/runhook/runhook.yaml RUNHOOK_DATA=/var/lib/runhook
USER 10001:10001
WORKDIR /var/lib/runhook
VOLUME /var/lib/runhook
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["healthcheck"]
ENTRYPOINT ["entrypoint"]
CMD ["serve"]
