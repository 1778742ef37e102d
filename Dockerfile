# One file, three images; server/README.md says how to run them.
#
#   docker build --target cpu    --tag tubelet:cpu .       the serving side and the Triton of the wheel, no torch
#   docker build --target gpu    --tag tubelet:gpu .       the serving side on NVIDIA's Triton, no torch
#   docker build --target export --tag tubelet:export .    torch and TensorRT: bundles, plans, repositories
#
# Base images are pinned by tag; a build that must give the same tomorrow adds the digest:
#   --build-arg PYTHON_IMAGE=python:3.11.14-slim-bookworm@sha256:...
# Python packages are pinned by constraints.txt and keep their metadata, so `docker build --sbom=true` names each.
# Triton's version, TensorRT's and CUDA's go together: the two NVIDIA images must be of one month, and a plan is served by the
# TensorRT that built it.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.08-py3
ARG TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:26.08-py3

# Our package, twice: one without the code only names what it depends on, and changes seldom.
FROM ${PYTHON_IMAGE} AS wheels
WORKDIR /source
RUN pip install --no-cache-dir hatchling==1.33.0
COPY pyproject.toml README.md LICENSE ./
COPY src/tubelet/__init__.py src/tubelet/__init__.py
RUN pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels/dependencies .
COPY src src
RUN pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels/code .


FROM ${PYTHON_IMAGE} AS cpu
ARG PYTHON_IMAGE
ARG VERSION=unknown
LABEL org.opencontainers.image.title="tubelet, on processors" \
      org.opencontainers.image.description="Serves video transformers with Triton 2.51 of the wheel nvidia-pytriton" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# Compiled once here: the root file system of a container need not be writable.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home --uid 1000 tubelet
WORKDIR /home/tubelet
RUN --mount=type=bind,from=wheels,source=/wheels/dependencies,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --compile --constraint /constraints.txt "$(echo /wheels/*.whl)[server]" \
    && pip uninstall --yes tubelet
RUN --mount=type=bind,from=wheels,source=/wheels/code,target=/wheels \
    pip install --no-cache-dir --compile --no-deps /wheels/*.whl && pip check
# What is served unless a volume is mounted over it; `make repository` writes it.
COPY model_repository model_repository
USER 1000:1000
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# A tiny video through every model; the supervisor heals by itself what this only reports.
HEALTHCHECK --interval=30s --timeout=20s --start-period=150s --retries=3 \
    CMD ["python3", "-m", "tubelet.server.health", "--http-port", "8000"]
ENTRYPOINT ["tubelet", "serve"]


FROM ${TRITON_IMAGE} AS gpu
ARG TRITON_IMAGE
ARG VERSION=unknown
LABEL org.opencontainers.image.title="tubelet, on NVIDIA GPUs" \
      org.opencontainers.image.description="Serves video transformers with Triton 2.72 and TensorRT 11.2" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${TRITON_IMAGE}"
# `video` gives the decoder (NVDEC); what CUDA compiles for a card is kept where it may be written. NVIDIA's images may name
# constraints of their own to pip.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_CONSTRAINT="" HOME=/home/tubelet CUDA_CACHE_PATH=/tmp/cuda \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PATH=/opt/tubelet/bin:${PATH}
WORKDIR /home/tubelet
# An environment of our own: the image's Python has another numpy. Triton's Python backend takes its packages from the first
# python3 on PATH. The engines of target `cpu` are there, so that its repositories can be served here, too; the Triton of the
# wheel is not.
RUN --mount=type=bind,from=wheels,source=/wheels/dependencies,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python3 -m venv --without-pip /opt/tubelet \
    && python3 -m pip --python /opt/tubelet/bin/python3 install --no-cache-dir --compile --constraint /constraints.txt \
       "$(echo /wheels/*.whl)[decode]" onnxruntime==1.31.1 openvino==2026.4.1 \
    && python3 -m pip --python /opt/tubelet/bin/python3 uninstall --yes tubelet
RUN --mount=type=bind,from=wheels,source=/wheels/code,target=/wheels \
    python3 -m pip --python /opt/tubelet/bin/python3 install --no-cache-dir --compile --no-deps /wheels/*.whl \
    && python3 -m pip --python /opt/tubelet/bin/python3 check
# Where ONNX Runtime keeps the engines that it builds when it loads (`--engine onnxruntime_tensorrt`): mount a volume here.
RUN install --directory --owner=1000 --group=1000 /var/cache/tubelet/engines
# No models: plans belong to one kind of card. Mount a repository of `tubelet repository --target gpu` at
# /home/tubelet/model_repository.
USER 1000:1000
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=330s --retries=3 \
    CMD ["python3", "-m", "tubelet.server.health", "--http-port", "8000"]
ENTRYPOINT ["tubelet", "serve"]


FROM ${TENSORRT_IMAGE} AS export
ARG TENSORRT_IMAGE
ARG VERSION=unknown
LABEL org.opencontainers.image.title="tubelet, export" \
      org.opencontainers.image.description="Exports, verifies and builds TensorRT plans of video transformers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${TENSORRT_IMAGE}"
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_CONSTRAINT="" HOME=/tmp CUDA_CACHE_PATH=/tmp/cuda \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PATH=/opt/tubelet/bin:${PATH}
# An environment that sees the image's TensorRT, and nothing else of the image that we pin otherwise.
RUN --mount=type=bind,from=wheels,source=/wheels/dependencies,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    python3 -m venv --without-pip --system-site-packages /opt/tubelet \
    && python3 -m pip --python /opt/tubelet/bin/python3 install --no-cache-dir --compile --constraint /constraints.txt \
       "$(echo /wheels/*.whl)[export,quantise]" \
    && python3 -m pip --python /opt/tubelet/bin/python3 uninstall --yes tubelet \
    && /opt/tubelet/bin/python3 -c "from importlib.util import find_spec; assert find_spec('tensorrt'), 'no TensorRT'"
RUN --mount=type=bind,from=wheels,source=/wheels/code,target=/wheels \
    python3 -m pip --python /opt/tubelet/bin/python3 install --no-cache-dir --compile --no-deps /wheels/*.whl
USER 1000:1000
# Recipes, checkpoints and bundles are yours: mount them here.
WORKDIR /work
ENTRYPOINT ["tubelet"]
CMD ["--help"]
