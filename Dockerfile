# The lab for one learner: docker build -t gatescope . && docker run --rm -p 127.0.0.1:8888:8888 -v gatescope-work:/lab/work gatescope
# For a class, and for Binder, see docs/hosting.md.
FROM python:3.12-slim-bookworm

ARG NB_USER=learner
ARG NB_UID=1000
RUN apt-get update \
    && apt-get install -y --no-install-recommends make git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid "$NB_UID" "$NB_USER" \
    && install -d -o "$NB_USER" /lab
USER $NB_USER
WORKDIR /lab
COPY --chown=$NB_USER . .
RUN make setup && mkdir -p work

EXPOSE 8888
VOLUME /lab/work
# JupyterLab prints an address with its token; JUPYTER_TOKEN sets one. Without either it is refused.
CMD ["make", "lab", "LAB_ARGS=--ip=0.0.0.0 --port=8888 --no-browser"]
