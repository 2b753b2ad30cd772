# The service in a container: the exported LiteRT model and what answers for it, without TensorFlow.
#
#     docker build --tag classifier .       (models/export: made by dvc repro, or got by dvc pull)
#     docker run --read-only --tmpfs /tmp --publish 8000:8000 classifier
#
# .dockerignore lets in what is copied, and nothing else.
FROM python:3.12-slim
WORKDIR /app
COPY requirements-serve.txt .
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-serve.txt
COPY stages stages
COPY models/export models/export
RUN python -m compileall -q stages
ENV PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
CMD ["python", "-m", "stages.serve", "--host", "0.0.0.0", "--model", "models/export/model.tflite"]
