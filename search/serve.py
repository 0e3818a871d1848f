# Copyright 2026 The SViTT for Transformers authors. Licensed under the MIT License.
"""`svitt serve`: a page on which to search videos, and the same over HTTP for other programs.

Visitors of other machines see names of files, no paths, and bring no files. On this machine's own address, requests
that another site's page makes, or that come by a name of such a site, are refused.
"""

import json
import os
import re
import shutil
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from ..data.files import VIDEO_EXTENSIONS, is_video
from ..errors import InputError, check_number, not_found, sentence_of, writing
from ..processing_svitt import IMAGE_EXTENSIONS, VideoDecodeError
from .hits import Hit
from .library import GoneError, Library, short_name
from .places import place_of
from .playing import media_type

PAGE = Path(__file__).with_name("page.html")
POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
SHELF = 24  # videos that are shown at once
MOST = 200  # hits of a query, spans to rank and answers to choose from, of visitors of other machines
LONGEST = 1000  # characters of a question or an answer
MAX_UPLOAD_BYTES = 2**31

Question = Annotated[str, Body(max_length=LONGEST)]
Options = Annotated[list[Annotated[str, Field(max_length=LONGEST)]], Body(max_length=MOST)]


class AsciiResponse(JSONResponse):
    """JSON that can hold names of files which are no UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


def build_app(library: Library) -> FastAPI:
    """Return an application that answers GET / with a page, and GET /search and GET /health with JSON."""

    async def refuse_strangers(request: Request):  # in no thread: queries that wait may have taken all
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if library.is_private and not is_loopback(re.sub(r":\d+$", "", host).strip("[]")):
            raise HTTPException(403, f"This server is not {host}; visit it as localhost.")
        if request.method != "GET" and origin is not None and urlsplit(origin).netloc != host:
            raise HTTPException(403, f"Pages of {origin} may change nothing here.")

    def find(
        q: str | None = None,
        like: str | None = None,
        start: float = 0.0,
        top_k: int = 10,
        shortlist: int = 50,
        rerank: bool | None = None,
        min_similarity: float | None = None,
        where: str | None = None,
        name: str | None = None,
        locate: bool = False,
    ) -> dict:
        """Return hits of a sentence `q`, or of a video `like`, its name or `id`, at `start`; of those with a `name`."""
        check_number("start", start, 0)
        if not library.is_private:  # lest one visitor keep the others waiting
            check_number("top_k", top_k, 1, MOST)
            check_number("shortlist", shortlist, 1, MOST)
        hit = None
        if like is not None:
            is_name = library.is_private and like not in library.known
            hit = Hit(like, start, start, 0.0) if is_name else library.hit_of(like, start)
        how: dict = {"min_similarity": min_similarity, "where": where, "name": name, "locate": locate}
        return library.search(text=q, like=hit, top_k=top_k, shortlist=shortlist, rerank=rerank, **how)

    def the_hit(id: str, start: float = 0.0) -> Hit:
        return library.hit_of(id, start)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        library.close()

    app = FastAPI(
        title="SViTT",
        dependencies=[Depends(refuse_strangers)],
        lifespan=lifespan,
        default_response_class=AsciiResponse,
        docs_url=None,  # these two pages would load scripts from elsewhere
        redoc_url=None,
    )
    found_hits: Any = Depends(find)
    named_hit: Any = Depends(the_hit)
    kept = {"Cache-Control": "private, max-age=3600"}

    # ---- For other programs

    @app.get("/search")
    def search(found: dict = found_hits) -> list[dict]:
        """Return the spans that the sentence `q` describes, or that are like the one of a video `like` at `start`."""
        return found["hits"]

    @app.get("/health")
    async def health() -> dict:  # answers at once, however many queries wait
        name = library.index.settings["model"] if library.index is not None else None
        return {"status": "ok", "model": name if library.is_private else name and short_name(name)}

    # ---- For the page

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    @app.get("/page/about")
    def about() -> dict:
        return library.about()

    @app.get("/page/videos")
    def videos(offset: int = 0) -> list[dict]:
        return library.shelf(max(0, offset), SHELF)

    @app.get("/page/search")
    def search_with_words(found: dict = found_hits) -> dict:
        return found

    @app.get("/page/play/{id}")
    def play(id: str, hit: Hit = named_hit) -> dict:
        """Return what plays a span, and the time of the video that this begins with."""
        if media_type(hit.video):
            return {"src": f"/video/{id}?start={hit.start}", "begins": 0.0}
        return {"src": f"/clip/{id}?start={hit.start}", "begins": hit.start}

    @app.get("/video/{id}")
    def video(hit: Hit = named_hit) -> FileResponse:
        if (kind := media_type(hit.video)) is None:
            raise GoneError
        return FileResponse(hit.video, media_type=kind, content_disposition_type="inline")

    @app.get("/clip/{id}")
    def clip(hit: Hit = named_hit) -> FileResponse:
        return FileResponse(library.clip(hit), media_type="video/mp4", content_disposition_type="inline")

    @app.get("/poster/{id}")
    def poster(time: float = 0.0, hit: Hit = named_hit) -> Response:
        check_number("time", time, 0)
        return Response(library.poster(hit, time), media_type="image/jpeg", headers=kept)

    @app.get("/patches/{id}")
    def patches(q: str | None = None, hit: Hit = named_hit) -> Response:
        return Response(library.patches(hit, q), media_type="image/png", headers=kept)

    @app.post("/page/ask/{id}")
    def ask(question: Question, options: Options, hit: Hit = named_hit) -> dict:
        return library.ask(hit, question, options)

    # ---- Files of the one visitor of this machine

    async def refuse_others():
        if not library.is_private:
            raise HTTPException(403, "Open to other machines, this page takes no files and no folders.")

    alone = [Depends(refuse_others)]

    @app.get("/page/job", dependencies=alone)
    async def job() -> dict:
        return library.job.state

    @app.post("/page/index", dependencies=alone)
    def index(folder: Annotated[str, Body(embed=True)]) -> dict:
        """Index a folder of this machine, or where none is named, what has been uploaded."""
        library.start(place_of(os.path.expanduser(folder.strip()) or library.uploads()))
        return library.job.state

    @app.post("/page/upload", dependencies=alone)
    async def upload(request: Request, name: str) -> dict:
        folder = library.uploads()
        with tempfile.TemporaryDirectory(dir=library.scratch.name) as scratch:
            path, content = await received(request, name, Path(scratch))
            with writing(folder):
                (folder / content).mkdir(parents=True, exist_ok=True)
                await run_in_threadpool(shutil.move, path, folder / content / path.name)
        return {"name": path.name}

    @app.post("/page/like", dependencies=alone)
    async def search_like(request: Request, name: str, top_k: int = 10, min_similarity: float | None = None) -> dict:
        with tempfile.TemporaryDirectory(dir=library.scratch.name) as scratch:
            path, _ = await received(request, name, Path(scratch))
            find_like = partial(library.search, video=path, top_k=top_k, min_similarity=min_similarity)
            return await run_in_threadpool(find_like)

    # ---- What is wrong, in a sentence

    @app.exception_handler(InputError)
    async def tell(request, error: InputError) -> JSONResponse:
        return AsciiResponse({"detail": sentence_of(error)}, 404 if isinstance(error, GoneError) else 400)

    @app.exception_handler(VideoDecodeError)
    async def tell_of_video(request, error: VideoDecodeError) -> JSONResponse:
        told = sentence_of(error) if library.is_private else "This video cannot be read, or has gone."
        return JSONResponse({"detail": told}, 400)

    @app.exception_handler(ClientDisconnect)
    async def forget(request, error: ClientDisconnect) -> Response:  # of a visitor who has left
        return Response(status_code=400)

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{one['loc'][-1]}: {one['msg'][0].lower()}{one['msg'][1:]}" for one in error.errors()]
        return JSONResponse({"detail": f"{'; '.join(problems)}."}, status_code=422)

    return app


async def received(request: Request, name: str, folder: Path) -> tuple[Path, str]:
    """Write a file that a visitor sends into a folder; return its path, and a name for its content.

    Raises:
        InputError: if it is no video or photo by its name, or too large.
    """
    name = re.sub(r"[^\w .,()+-]", "_", short_name(name)).lstrip(".")[-100:]
    if not is_video(name, VIDEO_EXTENSIONS + IMAGE_EXTENSIONS):
        raise InputError(f"{name}: is no video or photo by its name.")
    digest, num_bytes = blake2b(digest_size=8), 0
    with writing(folder / name), (folder / name).open("wb") as file:
        async for part in request.stream():
            digest.update(part)
            if (num_bytes := num_bytes + len(part)) > MAX_UPLOAD_BYTES:
                raise InputError(f"{name}: is larger than {MAX_UPLOAD_BYTES / 2**30:g} GB; name its folder instead.")
            file.write(part)
    return folder / name, digest.hexdigest()


def is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    folder: str | Path,
    model_name_or_path: str | None = None,
    qa_model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
):
    """Serve the index in a folder until it is interrupted; see [`Library`]; port 0 takes a free one.

    Raises:
        InputError: if the folder holds something else, or nothing can listen there.
    """
    check_number("port", port, 0, 65535)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened on ({error.strerror.partition(' (')[0]}).") from error
    with listener:
        library = Library(folder, model_name_or_path, qa_model, is_loopback(host))
        if library.index is None:
            print(not_found(folder, "index yet; `svitt index VIDEOS` makes one, or the page"), file=sys.stderr)
        name = f"[{host}]" if ":" in host else host
        print(f"http://{name}:{listener.getsockname()[1]}/", flush=True)
        settings = uvicorn.Config(build_app(library), log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(settings).run(sockets=[listener])
