# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""`svitt serve`: search over HTTP, for other programs. It tells where hits are, and hands out no files."""

import socket
from dataclasses import asdict
from threading import Lock

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from ..errors import InputError, check_number, sentence_of
from ..processing_svitt import VideoDecodeError
from .hits import Hit
from .index import SViTTIndex


def build_app(index: SViTTIndex) -> FastAPI:
    """Return an application that answers GET /search and GET /health."""
    app, lock = FastAPI(title="SViTT"), Lock()

    @app.get("/search")
    def search(
        q: str | None = None,
        like: str | None = None,
        start: float = 0.0,
        top_k: int = 10,
        shortlist: int = 50,
        rerank: bool = True,
        min_similarity: float | None = None,
        where: str | None = None,
        locate: bool = False,
    ) -> list[dict]:
        """Return the spans that the sentence `q` describes, or that are like the one of a video `like` at `start`."""
        hit = None if like is None else Hit(like, start, start, 0.0)
        try:
            check_number("start", start, 0)
            with lock:  # one query uses all cores, and tokenizers set for all threads how they pad
                hits = index.search(q, None, top_k, rerank, shortlist, hit, min_similarity, where, locate)
        except (InputError, VideoDecodeError) as error:
            raise HTTPException(400, sentence_of(error)) from error
        return [asdict(hit) for hit in hits]

    @app.get("/health")
    async def health() -> dict:  # answers at once, however many queries wait
        return {"status": "ok", "model": index.settings["model"]}

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{one['loc'][-1]}: {one['msg'][0].lower()}{one['msg'][1:]}" for one in error.errors()]
        return JSONResponse({"detail": f"{'; '.join(problems)}."}, status_code=422)

    return app


def serve(index: SViTTIndex, host: str = "127.0.0.1", port: int = 8000):
    """Serve an index until it is interrupted; port 0 takes a free one.

    Raises:
        InputError: if nothing can listen there.
    """
    check_number("port", port, 0, 65535)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened on ({error.strerror.partition(' (')[0]}).") from error
    with listener:
        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{listener.getsockname()[1]}/search?q=...", flush=True)
        uvicorn.Server(uvicorn.Config(build_app(index), log_level="warning")).run(sockets=[listener])
