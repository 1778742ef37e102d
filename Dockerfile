# Target `cpu`: the serving side alone, no torch. Build and run:
#   tubelet export ... && tubelet repository ...      (writes model_repository/, which the image takes along)
#   docker build --target cpu --tag tubelet:cpu .
#   docker run --shm-size 1g --network host tubelet:cpu
# The wheel's Triton listens on 127.0.0.1 only, hence the host's network: put your proxy beside it.
FROM python:3.11-slim-bookworm AS cpu

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --create-home --uid 1000 tubelet
WORKDIR /home/tubelet

# Dependencies first: they change less often than the code.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src/tubelet/__init__.py src/tubelet/__init__.py
RUN pip install --constraint constraints.txt '.[server]' && pip uninstall --yes tubelet

COPY src src
RUN pip install --constraint constraints.txt --no-deps '.'

COPY --chown=root:root model_repository model_repository

USER tubelet
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=15s --start-period=30s --retries=3 \
    CMD ["python", "-m", "tubelet.server.health", "--http-port", "8000"]
ENTRYPOINT ["tubelet", "serve", "--repository", "model_repository"]
