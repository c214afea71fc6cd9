# The steps of `make serve`, taken when the image is built: packages, Galenic, weights.
# To build on exactly one base, name it by digest: --build-arg PYTHON_IMAGE=python@sha256:… (deploy/README.md).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

# g++ is for torch.compile, libnuma1 for vLLM on CPUs, make for the steps.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home galenic \
    && install --directory --owner=galenic --group=galenic /srv/galenic /var/lib/galenic
USER galenic
WORKDIR /srv/galenic

# `--build-arg DEVICE=gpu` makes the image for NVIDIA GPUs.
ARG DEVICE=cpu
ENV GALENIC_DEVICE=$DEVICE \
    GALENIC_CACHE=/srv/galenic/cache \
    GALENIC_HOME=/var/lib/galenic \
    GALENIC_HOST=0.0.0.0 \
    VLLM_CACHE_ROOT=/var/lib/galenic/vllm \
    PIP_NO_CACHE_DIR=1 \
    PATH=/srv/galenic/.venv/bin:$PATH

# A layer of its own, rebuilt only when the pins change.
COPY --chown=galenic deploy/setup deploy/setup
COPY --chown=galenic deploy/requirements deploy/requirements
RUN deploy/setup requirements

COPY --chown=galenic . .
RUN make weights

VOLUME /var/lib/galenic
EXPOSE 8000
# The first start compiles the model, which takes minutes on few cores.
HEALTHCHECK --start-period=15m --start-interval=5s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
CMD ["galenic", "serve"]
