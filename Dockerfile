# Two stages: the first builds an environment from the hash-checked lock, the second holds nothing but that.
# `.ci/image-steps` runs these very lines in a scratch folder, without an engine.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md .ci/lock-subset ./
RUN python3 -m venv /opt/idhub && python3 -m venv /opt/build
# What the running hub needs, and what building its wheel needs: two parts of one lock.
RUN python3 lock-subset > runtime.lock && python3 lock-subset hatchling editables > build.lock
RUN /opt/idhub/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r runtime.lock
RUN /opt/build/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r build.lock
# `--build-arg PROCESSOR=x86-64-v3` (AVX2) makes a password cost two thirds, on such processors alone.
ARG PROCESSOR=
RUN if [ -n "$PROCESSOR" ]; then \
      apt-get update -qq && apt-get install --no-install-recommends -y -qq gcc libc6-dev \
      && python3 lock-subset argon2-cffi-bindings > argon2.lock \
      && CFLAGS="-O3 -march=$PROCESSOR" /opt/idhub/bin/pip install --no-cache-dir --no-deps --force-reinstall \
        --no-binary argon2-cffi-bindings --require-hashes -r argon2.lock; \
    fi
COPY idhub idhub
COPY providers providers
COPY scim scim
COPY audit audit
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist .
RUN /opt/idhub/bin/pip install --no-cache-dir --no-deps --no-index dist/idhub-*.whl \
    && /opt/idhub/bin/python -m pip check \
    && /opt/idhub/bin/python -m pip uninstall --yes pip

FROM python:3.11-slim-bookworm
COPY --from=build /opt/idhub /opt/idhub
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/idhub
ENV PATH=/opt/idhub/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 IDHUB_DATA_DIR=/var/lib/idhub
USER 10001:10001
WORKDIR /var/lib/idhub
VOLUME /var/lib/idhub
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["idhub"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
