# The container image of raycrnn: for `docker run`, for `ray up` (cluster.yaml) and for KubeRay.
#
#   docker build -t raycrnn .                                        for GPUs
#   docker build -t raycrnn:cpu --build-arg DEVICE=cpu .             for CPUs: a third of the size
#
#   docker run --rm --gpus all --shm-size 4g -v "$PWD/data:/sources:ro" -v "$PWD/config:/config" \
#       raycrnn train config.json
#
# Arguments:
#   BASE       Python 3.11 or later on Debian, with pip
#   DEVICE     gpu or cpu
#   CPU_INDEX  for DEVICE=cpu: the package index with PyTorch's CPU wheels; empty: the index in pip's configuration
#   EXTRAS     extras of setup.cfg: aws (lets the head of `ray up` start nodes on AWS), tensorboard, onnx (120 MB)
#   REVISION   the commit, for the label of the image
#
# The base needs no CUDA, even for GPUs: PyTorch's wheels from PyPI depend on packages with CUDA, cuDNN and NCCL. The
# driver (libcuda, nvidia-smi) must be that of the host; the NVIDIA container toolkit mounts it for `--gpus all`.
ARG BASE=python:3.11-slim-bookworm

# --- dependencies: a stage and layer of their own, rebuilt only if one of the three files below changes
FROM ${BASE} AS dependencies
ARG DEVICE=gpu
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=aws,tensorboard
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The pip of the base installs into it, so it needs none of its own.
RUN python3 -m venv --without-pip /opt/raycrnn
COPY constraints.txt pyproject.toml setup.cfg ./
# PyTorch is installed first and alone, so that no other package comes from its index. Its GPU wheels pin most of
# NVIDIA's packages; constraints.txt pins the others.
RUN case "$DEVICE" in \
        gpu) ;; \
        cpu) python3 -m pip --python /opt/raycrnn/bin/python install --no-deps --constraint constraints.txt \
                ${CPU_INDEX:+--index-url "$CPU_INDEX"} torch ;; \
        *) echo "DEVICE=$DEVICE: give gpu or cpu" >&2; exit 2 ;; \
    esac
# A placeholder for raycrnn: pip only reads its requirements from setup.cfg.
RUN mkdir raycrnn \
    && echo '__version__ = "0"' > raycrnn/__init__.py \
    && touch README.md LICENSE \
    && python3 -m pip --python /opt/raycrnn/bin/python install --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}" \
    && python3 -m pip --python /opt/raycrnn/bin/python uninstall --yes raycrnn
# Without this check, a wheel for the wrong device would only be noticed at run time.
RUN /opt/raycrnn/bin/python -c 'import sys, torch; sys.exit( \
        None if (torch.version.cuda is None) == (sys.argv[1] == "cpu") \
        else f"DEVICE={sys.argv[1]}, but pip found PyTorch {torch.__version__}")' "$DEVICE"

# --- raycrnn itself: six megabytes, the only layer that a change of the code rebuilds
FROM ${BASE} AS package
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/raycrnn
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY raycrnn raycrnn
# The scripts refer to the Python of /opt/raycrnn, into which /opt/package is copied below.
RUN python3 -m pip --python /opt/raycrnn/bin/python install --no-deps --prefix /opt/package .

# --- the image
FROM ${BASE}
# `ray up` needs rsync, which copies files into the container, and on the head ssh to the workers. KubeRay's probes need
# wget. tini, as process 1, reaps Ray's orphaned processes and forwards the signals of `docker stop`.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync tini wget \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/log/apt /var/log/dpkg.log
# 1000 is also the id of the first user of Debian, Ubuntu and Amazon Linux, so mounted files mostly belong to the same
# id. `--user` may set any other: Ray keeps its token in the home directory, so it is open to all users, like /tmp.
# Login shells, which Ray and KubeRay use, reset PATH; the profile sets it again.
RUN useradd --uid 1000 --user-group --create-home --shell /bin/bash raycrnn \
    && chmod 1777 /home/raycrnn \
    && install --directory --mode 1777 /config \
    && install --directory /sources \
    && echo 'export PATH=/opt/raycrnn/bin:$PATH' > /etc/profile.d/raycrnn.sh
COPY --from=dependencies /opt/raycrnn /opt/raycrnn
COPY --from=package /opt/package /opt/raycrnn
COPY --chmod=0755 deploy/entrypoint.sh /usr/local/bin/raycrnn-entrypoint
COPY --chmod=0755 deploy/health.py /usr/local/bin/raycrnn-health

# HOME and USER are for user ids without a name (`--user`); `ray up` also reads HOME. NVIDIA_*: `ray up` starts
# containers with --runtime=nvidia, which mounts the driver only if these variables request it.
ENV PATH=/opt/raycrnn/bin:$PATH \
    HOME=/home/raycrnn \
    USER=raycrnn \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG BASE
ARG REVISION=
LABEL org.opencontainers.image.title="raycrnn" \
      org.opencontainers.image.description="From a CSV of text images to a trained recogniser" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.revision="${REVISION}"

USER 1000:1000
# Configuration and results; images are in /sources. These are not declared as volumes: if the user forgot to mount
# them, Docker would create anonymous volumes on the host.
WORKDIR /config
# The port of `serve --host 0.0.0.0`. Without --host, it listens on the loopback interface of the container.
EXPOSE 8000
# A service is healthy if /health answers; any other command while it runs. Kubernetes has its own probes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["raycrnn-health"]
# -s: tini also reaps if it is not process 1 (`docker run --init`, or a pod whose containers share processes).
ENTRYPOINT ["tini", "-s", "--", "raycrnn-entrypoint"]
CMD ["--help"]
