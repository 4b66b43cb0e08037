# The image that cluster/kubernetes and cluster/launcher.yaml name. Its tag is the version in pyproject.toml:
#   docker build -t ghcr.io/example/semtag:0.1.0 .
# torch and vLLM bring their CUDA libraries along; the node gives its driver.
FROM rayproject/ray:2.60.0-py311

WORKDIR /home/ray/semtag
COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users requirements/packaged.txt requirements/
COPY --chown=ray:users configs configs
COPY --chown=ray:users store store
COPY --chown=ray:users cluster cluster
COPY --chown=ray:users generation generation
COPY --chown=ray:users scoring scoring
COPY --chown=ray:users training training
COPY --chown=ray:users evaluation evaluation
COPY --chown=ray:users semtag semtag
# Editable: commands start in this folder, and a second copy in site-packages could hide it.
RUN pip install --no-cache-dir --editable ".[gpu,s3,gcs]" \
    && pip install --no-cache-dir --no-deps -r requirements/packaged.txt
USER ray
