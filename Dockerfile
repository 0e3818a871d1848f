# The page of `svitt serve` on a CPU, on a machine of one's own or as a Docker Space: docs/ecosystem.md tells how.
FROM python:3.12-slim
RUN useradd --uid 1000 user && install --directory --owner user /data
COPY . /svitt
RUN pip install --no-cache-dir "torch>=2.8" --index-url https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir "/svitt[app]"
USER user
ENV HF_HOME=/data/huggingface
ENTRYPOINT ["svitt"]
CMD ["serve", "/data/index", "--host", "0.0.0.0", "--port", "7860"]
