"""What is in an image, as a CycloneDX 1.6 document made from its lock.

The lock is complete and hashed, so no scanner has to guess. Format: the "CycloneDX 1.6 JSON Reference";
package addresses: the "purl" specification, type `pypi`.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from qwend.adapters.locks import Pin, canonical
from qwend.model.image import ImageSpec
from qwend.model.image_file import ImageFile


def sbom(spec: ImageSpec, image: ImageFile, pins: list[Pin]) -> str:
    """The document as JSON text: the same for the same image, so it carries no time."""
    main: dict[str, Any] = {
        "type": "container",
        "bom-ref": spec.key,
        "name": f"qwend/{spec.name}",
        "version": spec.version,
        "description": image.summary,
        "licenses": [{"expression": image.licence}],
        "hashes": [{"alg": "SHA-256", "content": spec.digest}],
    }
    components = [_package(pin) for pin in pins] + [
        {
            "type": "library",
            "bom-ref": f"source:{source.package}@{source.version}",
            "name": canonical(source.package),
            "version": source.version,
            "purl": f"pkg:pypi/{canonical(source.package)}@{source.version}",
            "hashes": [{"alg": "SHA-256", "content": source.sha256}],
            "properties": [{"name": "qwend:role", "value": "compiled from this source archive"}],
        }
        for source in image.sources
    ]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, spec.digest)}",
        "version": 1,
        "metadata": {"component": main},
        "components": sorted(components, key=lambda one: one["bom-ref"]),
        "dependencies": [{"ref": spec.key, "dependsOn": sorted(one["bom-ref"] for one in components)}],
    }
    return json.dumps(document, indent=1) + "\n"


def _package(pin: Pin) -> dict[str, Any]:
    """One package. A lock admits several files of it (one for each platform): each hash is one of them."""
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pypi:{pin.name}@{pin.version}" + (f";{pin.marker}" if pin.marker else ""),
        "name": pin.name,
        "version": pin.version,
        "purl": f"pkg:pypi/{pin.name}@{pin.version.replace('+', '%2B')}",
        "properties": [{"name": "qwend:accepted-sha256", "value": digest} for digest in pin.hashes],
    }
    if len(pin.hashes) == 1:
        found["hashes"] = [{"alg": "SHA-256", "content": pin.hashes[0]}]
    if pin.marker:
        found["properties"].append({"name": "qwend:where", "value": pin.marker})
    return found
