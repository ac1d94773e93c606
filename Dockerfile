FROM python:3.12-slim

# The compiler of the Debian release that the base image has; no particular version is needed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# docker.sh passes the caller's user id, so that files in output/ belong to the caller.
ARG USER_ID=1000
RUN useradd --no-log-init --create-home --uid "${USER_ID}" simulator \
    && install --directory --owner=simulator /app
USER ${USER_ID}
WORKDIR /app

# What is compiled comes first: changing a config or a workload does not compile again.
COPY --chown=simulator pyproject.toml CMakeLists.txt compile.sh README.md LICENSE ./
COPY --chown=simulator astra-sim/ astra-sim/
COPY --chown=simulator inference_serving/ inference_serving/
COPY --chown=simulator llm_profile/ llm_profile/
RUN PIP_NO_CACHE_DIR=1 ./compile.sh
COPY --chown=simulator . .

ENTRYPOINT ["/app/.venv/bin/python", "main.py"]
CMD ["--help"]
