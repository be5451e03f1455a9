# raycrnn as an image: for `docker run`, for `ray up` (cluster.yaml) and for KubeRay.
#
#   docker build -t raycrnn .                                        GPU
#   docker build -t raycrnn:cpu --build-arg DEVICE=cpu .             CPU alone: a third of the size
#
#   docker run --rm --gpus all --shm-size 4g -v "$PWD/data:/sources:ro" -v "$PWD/config:/config" \
#       raycrnn train config.json
#
# Arguments:
#   BASE       Python 3.11 or later on Debian, with pip
#   DEVICE     gpu or cpu
#   CPU_INDEX  for DEVICE=cpu: the index with PyTorch's CPU wheels; empty: what pip's own configuration names
#   EXTRAS     of setup.cfg: aws (a head of `ray up` on AWS starts nodes with it), tensorboard, onnx (120 MB)
#   REVISION   the commit, for the image's label
#
# The base has no CUDA, for GPUs too: PyTorch's wheels from PyPI bring CUDA, cuDNN and NCCL as packages, and the driver
# (libcuda, nvidia-smi) must be the host's own, which the NVIDIA container toolkit mounts for `--gpus all`.
ARG BASE=python:3.11-slim-bookworm

# --- what raycrnn needs: its own stage and layer, made anew only if one of these three files changes
FROM ${BASE} AS dependencies
ARG DEVICE=gpu
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=aws,tensorboard
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The base's pip fills it, so that it need not have one of its own.
RUN python3 -m venv --without-pip /opt/raycrnn
COPY constraints.txt pyproject.toml setup.cfg ./
# First and alone, so that nothing but PyTorch comes from its index. Its wheels for GPUs name the versions of nearly all
# of NVIDIA's packages; constraints.txt has those that they leave open.
RUN case "$DEVICE" in \
        gpu) ;; \
        cpu) python3 -m pip --python /opt/raycrnn/bin/python install --no-deps --constraint constraints.txt \
                ${CPU_INDEX:+--index-url "$CPU_INDEX"} torch ;; \
        *) echo "DEVICE=$DEVICE: give gpu or cpu" >&2; exit 2 ;; \
    esac
# An empty package stands in for raycrnn: pip reads its requirements from setup.cfg.
RUN mkdir raycrnn \
    && echo '__version__ = "0"' > raycrnn/__init__.py \
    && touch README.md LICENSE \
    && python3 -m pip --python /opt/raycrnn/bin/python install --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}" \
    && python3 -m pip --python /opt/raycrnn/bin/python uninstall --yes raycrnn
# A wheel for the other device would be noticed only where it is run.
RUN /opt/raycrnn/bin/python -c 'import sys, torch; sys.exit( \
        None if (torch.version.cuda is None) == (sys.argv[1] == "cpu") \
        else f"DEVICE={sys.argv[1]}, but pip found PyTorch {torch.__version__}")' "$DEVICE"

# --- raycrnn itself: less than a megabyte, the only layer that a changed line of code changes
FROM ${BASE} AS package
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/raycrnn
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY raycrnn raycrnn
# Scripts begin with the environment's Python, where the files of /opt/package are put below.
RUN python3 -m pip --python /opt/raycrnn/bin/python install --no-deps --prefix /opt/package .

# --- the image
FROM ${BASE}
# For `ray up`: rsync, which copies files into the container, and on the head ssh to the workers. For KubeRay: wget, by
# which its probes ask. As process 1: tini, which reaps Ray's orphans and passes on the signals of `docker stop`.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync tini wget \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /var/cache/debconf/* /var/log/apt /var/log/dpkg.log
# 1000 is the first user of Debian, Ubuntu and Amazon Linux too, so that mounted files mostly belong to the same number.
# With `--user` it may be any: its home is open to all, as /tmp is, for Ray keeps its token there. Login shells, which
# Ray and KubeRay use, forget PATH; hence the profile.
RUN useradd --uid 1000 --user-group --create-home --shell /bin/bash raycrnn \
    && chmod 1777 /home/raycrnn \
    && install --directory --mode 1777 /config \
    && install --directory /sources \
    && echo 'export PATH=/opt/raycrnn/bin:$PATH' > /etc/profile.d/raycrnn.sh
COPY --from=dependencies /opt/raycrnn /opt/raycrnn
COPY --from=package /opt/package /opt/raycrnn
COPY --chmod=0755 deploy/entrypoint.sh /usr/local/bin/raycrnn-entrypoint
COPY --chmod=0755 deploy/health.py /usr/local/bin/raycrnn-health

# HOME and USER are for numbers without a name (`--user`); `ray up` reads HOME here as well. NVIDIA_*: `ray up` gives
# containers the runtime (--runtime=nvidia), which mounts the driver only where these ask for it.
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
# Configuration and results; images are in /sources. Not declared as volumes: what is forgotten to be mounted would lie
# in nameless ones on the host.
WORKDIR /config
# Where `serve --host 0.0.0.0` listens; without --host it listens on the container's own loopback.
EXPOSE 8000
# A service is healthy when /health answers, any other command while it runs. Only Docker asks; Kubernetes has probes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["raycrnn-health"]
# -s: it reaps where it is not process 1 too (`docker run --init`, a pod whose containers share processes).
ENTRYPOINT ["tini", "-s", "--", "raycrnn-entrypoint"]
CMD ["--help"]
