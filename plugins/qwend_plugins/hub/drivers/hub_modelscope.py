"""ModelScope as a `Hub`: listing and caches through modelscope_hub. Travels with `hubs`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("HOME", tempfile.gettempdir())  # the library asks for one when it is imported
# The library's own defaults try for minutes; a plan wants an answer, and a fetch retries by itself.
os.environ.setdefault("MODELSCOPE_API_MAX_RETRIES", "1")
os.environ.setdefault("MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS", "2")
os.environ.setdefault("MODELSCOPE_API_CONNECT_TIMEOUT", "5")

import modelscope_hub
from hubs import COMMIT, Hub, HubError, RemoteFile, Snapshot, by_status, no_network, sha256
from modelscope_hub import errors
from modelscope_hub.config import HubConfig


class ModelScope(Hub):
    """ModelScope, or the site that MODELSCOPE_ENDPOINT names."""

    name = "ModelScope"
    token_hint = "log in (modelscope login, or MODELSCOPE_API_TOKEN)"

    def __init__(self, repo: str, kind: str, token: str | None = None) -> None:
        super().__init__(repo, kind, token)
        self.config = HubConfig(token=token)
        self.api = modelscope_hub.HubApi(self.config)

    def snapshot(self, revision: str | None) -> Snapshot:
        host = urlsplit(str(self.config.endpoint)).netloc
        try:
            rows = self.api.legacy.list_repo_files(self.repo, self.kind, revision=revision or "master")
        except errors.NotExistError:
            what = f"{self.kind} {self.repo}" + (f" at {revision}" if revision else "")
            raise HubError("not-found", f"{host} has no {what}", "check the spelling") from None
        except errors.NetworkError as error:
            raise no_network(host, error) from None
        except errors.APIError as error:
            status = error.status_code
            wait = getattr(error, "retry_after", None)
            raise by_status(status, f"{host} answers {status} for {self.repo}", self, wait) from None
        except errors.HubError as error:
            raise HubError("hub-failure", f"{host}: {error}") from None
        rows = [row for row in rows if (row.get("Type") or "blob") != "tree"]
        files = tuple(
            RemoteFile(
                row.get("Path") or row["Name"], row.get("Size"), (row.get("Sha256") or "").lower() or None
            )
            for row in rows
        )
        # Listings tell for each file the commit that changed it last; the newest of these holds all of them.
        rows.sort(key=lambda row: row.get("CommittedDate") or 0)
        newest = str(rows[-1].get("Revision") or "") if rows else ""
        commit = revision if revision and COMMIT.fullmatch(revision) else newest
        return Snapshot(commit if COMMIT.fullmatch(commit) else revision or "master", files)

    def request(self, path: str, revision: str) -> tuple[str, dict[str, str]]:
        headers = {"User-Agent": "qwend"}
        if token := self.config.token:
            headers |= {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"}
        return self.api.legacy.get_download_url(self.repo, self.kind, path, revision), headers

    def cached(self, file: RemoteFile, revision: str) -> Path | None:
        """Layouts of both generations of the library. They are keyed by branch, so the content is hashed."""
        root, owner_name = Path(self.config.cache_dir), self.repo.split("/")
        kinds, old = f"{self.kind}s", owner_name[1].replace(".", "___")
        folders = [
            *(
                root / kinds / "--".join(owner_name) / "snapshots" / name
                for name in (revision, "master", "main")
            ),
            *(base / kinds / owner_name[0] / old for base in (root, root / "hub")),
        ]
        for folder in folders:
            path = folder / file.path
            if (
                file.sha256
                and path.is_file()
                and path.stat().st_size == file.size
                and sha256(path) == file.sha256
            ):
                return path
        return None
