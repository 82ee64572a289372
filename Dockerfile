# A container that serves a model over HTTP, for a GPU or a CPU; docs/how-to/deploy.md tells how to build and run it.
# The version of Python is one that constraints.txt is tested with.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
# The default torch wheel of Linux brings the libraries of CUDA; another index or folder can give a smaller one.
ARG PIP_FLAGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/ctseg
COPY constraints.txt ./
RUN /opt/ctseg/bin/pip install -c constraints.txt ${PIP_FLAGS} torch
COPY . .
RUN /opt/ctseg/bin/pip install -c constraints.txt ${PIP_FLAGS} . ./plugins/ctseg-dicom ./plugins/ctseg-serve

FROM python:${PYTHON}
COPY --from=build /opt/ctseg /opt/ctseg
# Folders of the user that the service runs as: models of your own, uploads and results.
RUN install -d -o 10001 -g 10001 /zoo /scratch
ENV PATH=/opt/ctseg/bin:${PATH} HOME=/scratch CTSEG_ZOO=/zoo NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /scratch
VOLUME ["/zoo", "/scratch"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "from http.client import HTTPConnection as H; c = H('127.0.0.1', 8000, timeout=4); c.request('GET', '/health/ready'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["ctseg"]
CMD ["serve", "unet3d.hippocampus_v1", "--host", "0.0.0.0", "--key-file", "/run/secrets/ctseg-keys", "--scratch", "/scratch"]
