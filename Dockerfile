# One image for every role of Aura Stream: migrate, topics, ledger, sink, events, webhooks, api.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/app
WORKDIR /app

# The packages first: they change less often than the code.
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements.lock

COPY aura_stream aura_stream
COPY topics topics
COPY tables tables
COPY agents agents
COPY web web

# State stores live in a volume; nothing else is written.
RUN useradd --system --uid 10001 aura && mkdir /data && chown aura /data
USER aura
ENV AURA_HOME=/data
VOLUME /data

ENTRYPOINT ["python", "-m", "aura_stream.cli"]
CMD ["--help"]
