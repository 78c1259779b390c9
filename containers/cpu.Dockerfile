# metadeblur on the processor: docker build -f containers/cpu.Dockerfile -t metadeblur .
FROM python:3.12-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/metadeblur
ENV PATH=/opt/metadeblur/bin:$PATH VIRTUAL_ENV=/opt/metadeblur
COPY constraints.txt ./
# The build without CUDA is a tenth of the size; uv knows builds by their names.
RUN pip install --no-cache-dir uv==0.13.9 && uv pip install --no-cache-dir torch==2.13.0 --torch-backend cpu
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[app]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/metadeblur /opt/metadeblur
COPY containers/entrypoint.sh /usr/local/bin/entrypoint.sh
RUN useradd --create-home --uid 1000 metadeblur && mkdir /work && chown metadeblur /work && chmod 755 /usr/local/bin/entrypoint.sh
ENV PATH=/opt/metadeblur/bin:$PATH PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /work
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 7860), 3)"]
ENTRYPOINT ["entrypoint.sh"]
CMD ["app"]
