"""Hugging Face as a `Hub`: listing and caches through huggingface_hub. Travels with `hubs`."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import huggingface_hub
from hubs import COMMIT, TIMEOUT, Hub, HubError, RemoteFile, Snapshot, by_status, no_network
from huggingface_hub import constants, errors
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers


class HuggingFace(Hub):
    """Hugging Face, or the mirror that HF_ENDPOINT names."""

    name = "Hugging Face"
    token_hint = "ask for access on its page and log in (hf auth login, or HF_TOKEN)"

    def snapshot(self, revision: str | None) -> Snapshot:
        api = huggingface_hub.HfApi(token=self.token)
        host = urlsplit(api.endpoint).netloc
        try:
            info = api.repo_info(
                self.repo, repo_type=self.kind, revision=revision, files_metadata=True, timeout=TIMEOUT[0]
            )
        except errors.GatedRepoError:
            raise HubError("gated", f"{self.repo} is gated on {host}", self.token_hint) from None
        except errors.RevisionNotFoundError:
            raise HubError(
                "revision-not-found", f"{self.repo} has no revision {revision} on {host}"
            ) from None
        except errors.RepositoryNotFoundError as error:
            if (
                self.token is None
                and huggingface_hub.get_token() is None
                and error.response.status_code == 401
            ):
                hint = "check the spelling; for a private one log in (hf auth login, or HF_TOKEN)"
                raise HubError(
                    "not-found", f"{host} shows no {self.kind} {self.repo} to the public", hint
                ) from None
            raise HubError(
                "not-found", f"{host} has no {self.kind} {self.repo}", "check the spelling"
            ) from None
        except errors.OfflineModeIsEnabled:
            raise HubError("no-network", "HF_HUB_OFFLINE forbids to ask the hub", "unset it") from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            wait = error.response.headers.get("Retry-After")
            raise by_status(status, f"{host} answers {status} for {self.repo}", self, wait) from None
        except errors.HFValidationError as error:
            raise HubError("bad-reference", f"{self.repo!r} is no repository: {error}") from None
        except (
            OSError,
            ValueError,
        ) as error:  # transport errors are OSError in one client, its own in the next
            raise no_network(host, error) from None
        except Exception as error:
            if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
                raise
            raise no_network(host, error) from None
        files = [
            RemoteFile(
                path=s.rfilename,
                size=s.lfs.size if s.lfs else s.size,
                sha256=s.lfs.sha256 if s.lfs else None,
                oid=None if s.lfs else s.blob_id,
            )
            for s in info.siblings or []
        ]
        about = {"configs": (info.card_data or {}).get("configs")} if self.kind == "dataset" else {}
        counts = getattr(info, "safetensors", None)
        gguf = getattr(info, "gguf", None) or {}
        return Snapshot(info.sha, tuple(files), counts.total if counts else gguf.get("total"), about)

    def request(self, path: str, revision: str) -> tuple[str, dict[str, str]]:
        url = huggingface_hub.hf_hub_url(self.repo, path, repo_type=self.kind, revision=revision)
        return url, dict(build_hf_headers(token=self.token))

    def cached(self, file: RemoteFile, revision: str) -> Path | None:
        found = huggingface_hub.try_to_load_from_cache(
            self.repo, file.path, revision=revision, repo_type=self.kind
        )
        if not isinstance(found, str):
            return None
        path = Path(found)
        # The cache names each blob by its hash and renames it into place when complete.
        blob = path.resolve().name
        if file.size is not None and path.stat().st_size != file.size:
            return None
        return path if not COMMIT.fullmatch(blob) or blob in (file.sha256, file.oid) else None

    def cached_snapshot(self, revision: str | None) -> Snapshot | None:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.repo, repo_type=self.kind)
        commit = revision or "main"
        if not COMMIT.fullmatch(commit):
            try:
                commit = (folder / "refs" / commit).read_text(encoding="utf-8").strip()
            except OSError:
                return None
        root = folder / "snapshots" / commit
        files = []
        for path in sorted(root.rglob("*")) if COMMIT.fullmatch(commit) else []:
            if path.is_file():
                blob = path.resolve().name
                known = COMMIT.fullmatch(blob) is not None
                files.append(
                    RemoteFile(
                        path.relative_to(root).as_posix(),
                        path.stat().st_size,
                        sha256=blob if known and len(blob) == 64 else None,
                        oid=blob if known and len(blob) == 40 else None,
                    )
                )
        return Snapshot(commit, tuple(files)) if files else None
