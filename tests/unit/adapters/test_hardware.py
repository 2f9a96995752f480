"""A Host is what the machine says, read from recorded files of other machines and from this one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from qwend.adapters import hardware_darwin, hardware_linux
from qwend.adapters.docker_version import address, engine_gives_gpus, engine_version, refusal
from qwend.adapters.hardware import HostMachine, free_bytes
from qwend.adapters.nvml import Nvml, NvmlError

GIB = 1024**3


def tree(root: Path, **files: str) -> str:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("dot", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


MEMINFO = (
    "MemTotal:       33554432 kB\nMemFree:  1048576 kB\nMemAvailable:   25165824 kB\nHugePages_Total:  0\n"
)


def test_memory_is_what_is_available_not_what_is_free(tmp_path: Path) -> None:
    assert hardware_linux.memory(tree(tmp_path, proc__meminfo=MEMINFO)) == (32 * GIB, 24 * GIB)


def test_an_old_kernel_that_does_not_tell_leaves_it_unknown(tmp_path: Path) -> None:
    text = "MemTotal: 1024 kB\nMemFree: 512 kB\n"
    assert hardware_linux.memory(tree(tmp_path, proc__meminfo=text)) == (1024**2, None)
    assert hardware_linux.memory(str(tmp_path / "nothing")) == (None, None)


def test_a_control_group_of_version_2_bounds_memory_and_cpus(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__cpuinfo="processor\t: 0\n" * 8,
        proc__self__cgroup="0::/user.slice/app.scope\n",
        sys__fs__cgroup__memorydotstat="inactive_file 7\n",
    )
    group = tmp_path / "sys/fs/cgroup/user.slice/app.scope"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "memory.max").write_text(f"{8 * GIB}\n")
    (group.parent / "memory.current").write_text(f"{5 * GIB}\n")
    (group.parent / "memory.stat").write_text(f"anon {GIB}\ninactive_file {2 * GIB}\n")
    (group.parent / "cpu.max").write_text("250000 100000\n")
    assert hardware_linux.memory(root) == (8 * GIB, 5 * GIB)
    assert hardware_linux.cpus(root) == 2


def test_a_control_group_of_version_1_does_the_same_and_its_no_limit_is_none(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__cpuinfo="processor : 0\n" * 4,
        proc__self__cgroup="4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
    )
    for folder, files in {
        "memory/a": {
            "memory.limit_in_bytes": f"{4 * GIB}",
            "memory.usage_in_bytes": f"{3 * GIB}",
            "memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        },
        "memory": {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": f"{30 * GIB}"},
        "cpu,cpuacct/a": {"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"},
        "cpu,cpuacct": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
    }.items():
        (tmp_path / "sys/fs/cgroup" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / "sys/fs/cgroup" / folder / name).write_text(text + "\n")
    assert hardware_linux.memory(root) == (4 * GIB, 2 * GIB)
    assert hardware_linux.cpus(root) == 1


def test_the_distribution_says_its_name(tmp_path: Path) -> None:
    root = tree(tmp_path, etc__os_release="")
    (tmp_path / "etc/os-release").write_text('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n')
    assert hardware_linux.os_version(root) == "Debian GNU/Linux 13 (trixie)"
    assert hardware_linux.os_version(str(tmp_path / "etc")) is None


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Sun Mar 30 20:42:22 UTC 2025\nGCC version: 12\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (dvs-builder)\n",
    ],
)
def test_the_loaded_driver_is_known_without_its_library(tmp_path: Path, text: str) -> None:
    root = tree(tmp_path, proc__driver__nvidia__version=text)
    assert hardware_linux.nvidia_driver(root) == "570.133.20"


SYSCTL = (
    "hw.memsize: 38654705664\nhw.logicalcpu: 12\nmachdep.cpu.brand_string: Apple M3 Pro\n"
    "kern.osproductversion: 15.6.1\nhw.optional.arm64: 1\n"
)
VM_STAT = (
    "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
    "Pages free:                              123456.\nPages active:                            789012.\n"
    "Pages inactive:                          345678.\nPages speculative:                        12345.\n"
    "Pages throttled:                              0.\nPages wired down:                        234567.\n"
    'Pages purgeable:                          56789.\n"Translation faults":                  98765432.\n'
)


def test_what_a_mac_prints_is_read() -> None:
    assert hardware_darwin.parse_sysctl(SYSCTL) == (36 * GIB, 12, "Apple M3 Pro", "macOS 15.6.1", True)
    assert hardware_darwin.parse_vm_stat(VM_STAT) == (123456 + 345678 + 12345) * 16384


RECORDED = """\
hw.ncpu: 8
hw.byteorder: 1234
hw.memsize: 25769803776
hw.activecpu: 8
hw.perflevel0.physicalcpu: 4
hw.perflevel0.physicalcpu_max: 4
hw.perflevel0.logicalcpu: 4
hw.perflevel0.logicalcpu_max: 4
hw.optional.armv8_crc32: 1
hw.optional.armv8_gpi: 1
hw.optional.AdvSIMD: 1
hw.optional.ucnormal_mem: 1
hw.optional.arm64: 1
hw.features.allows_security_research: 0
hw.physicalcpu: 8
hw.physicalcpu_max: 8
hw.logicalcpu: 8
hw.logicalcpu_max: 8
hw.cputype: 16777228
hw.cacheconfig: 8 1 4 0 0 0 0 0 0 0
hw.osenvironment: 
machdep.cpu.brand_string: Apple M2
sysctl.proc_translated: 0
"""  # noqa: W291
"""Of a published log of an M2: names that look like ours stand around them, one has no value, and the kernel does not
tell the system's version (which `sysctl hw` leaves out)."""

RECORDED_VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               64712.
Pages active:                            996993.
Pages inactive:                          994622.
Pages speculative:                         1744.
Pages throttled:                              0.
Pages wired down:                        353323.
Pages purgeable:                          22116.
"Translation faults":               13199997030.
Pages copy-on-write:                  497042267.
Pages zero filled:                   8006565953.
Pages reactivated:                    961802261.
Pages purged:                         135950217.
File-backed pages:                       468696.
Anonymous pages:                        1524663.
Pages stored in compressor:             2068175.
Pages occupied by compressor:            678569.
"""
"""Of a published log of a Mac with 48 GiB."""


RECORDED_VERSION = """\
kern.osproductversion: 14.4.1
kern.osreleasetype: User
hw.ncpu: 8
hw.memsize: 17179869184
hw.logicalcpu: 8
hw.logicalcpu_max: 8
hw.cputype: 16777228
hw.cpusubfamily: 2
hw.pagesize: 16384
"""
RECORDED_INTEL = """\
kern.osversion: 21D49
kern.iossupportversion: 15.3
kern.osproductversion: 12.2
kern.osproductversioncompat: 10.16
"""
"""Of published logs, of a Mac on macOS 14 and of one with an Intel CPU: the version, and what is called nearly so."""


def test_the_version_of_macos_is_read_as_macs_printed_it() -> None:
    assert hardware_darwin.parse_sysctl(RECORDED_VERSION) == (16 * GIB, 8, None, "macOS 14.4.1", False)
    assert hardware_darwin.parse_sysctl(RECORDED_INTEL) == (None, None, None, "macOS 12.2", False)


def test_what_macs_printed_that_people_logged_is_read() -> None:
    assert hardware_darwin.parse_sysctl(RECORDED) == (24 * GIB, 8, "Apple M2", None, True)
    translated = RECORDED.replace("sysctl.proc_translated: 0", "sysctl.proc_translated: 1")
    assert hardware_darwin.parse_sysctl(translated).arm
    free = hardware_darwin.parse_vm_stat(RECORDED_VM_STAT)
    assert free == (64712 + 994622 + 1744) * 16384
    assert free < 48 * GIB


def test_an_intel_mac_lacks_a_name_and_garbage_is_unknown() -> None:
    intel = SYSCTL.replace("hw.optional.arm64: 1\n", "").replace("Apple M3 Pro", "Intel(R) Core(TM) i7")
    assert not hardware_darwin.parse_sysctl(intel).arm
    assert hardware_darwin.parse_sysctl("sysctl: unknown oid") == (None, None, None, None, False)
    assert hardware_darwin.parse_vm_stat("") is None


async def test_this_machine_is_observed_and_nothing_is_made_up(tmp_path: Path) -> None:
    machine = HostMachine(str(tmp_path / "not/yet"), environ={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    host = await machine.observe()
    assert host.system in {"linux", "darwin"}
    assert host.machine in {"x86_64", "arm64"}
    assert host.cpus >= 1
    assert host.memory is not None
    assert host.memory_available is not None
    assert 0 < host.memory_available <= host.memory
    assert host.disk_free == pytest.approx(free_bytes(str(tmp_path)), rel=0.1)
    assert host.docker is None
    assert host.docker_gpus is None
    assert host.python == ".".join(map(str, sys.version_info[:3]))


def test_free_space_of_a_folder_that_is_not_there_yet_is_that_of_its_volume(tmp_path: Path) -> None:
    assert free_bytes(str(tmp_path / "a/b/c")) is not None


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users")
def test_an_engine_whose_socket_is_for_others_is_there_and_says_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert refusal(str(path)) is None
        path.chmod(0o060 if os.geteuid() == 0 else 0)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            says = refusal(str(path))
        finally:
            os.seteuid(before)
    assert says is not None and says.startswith(f"its socket {path} is for ")
    assert refusal(str(tmp_path / "none.sock")) is None


# Docker ----------------------------------------------------------------------------------------------------


def test_the_engine_is_looked_for_where_the_environment_says(tmp_path: Path) -> None:
    assert address({"DOCKER_HOST": "unix:///x/docker.sock"}) == "/x/docker.sock"
    assert address({"DOCKER_HOST": "tcp://127.0.0.1:2375"}) == ("127.0.0.1", 2375)
    assert address({"DOCKER_HOST": "tcp://h:2376", "DOCKER_TLS_VERIFY": "1"}) is None
    assert address({"DOCKER_HOST": "ssh://me@elsewhere"}) is None
    (tmp_path / ".docker/run").mkdir(parents=True)
    (tmp_path / ".docker/run/docker.sock").touch()
    found = address({"HOME": str(tmp_path)})
    assert found in {"/var/run/docker.sock", "/run/docker.sock", str(tmp_path / ".docker/run/docker.sock")}


def test_the_chosen_context_of_the_docker_command_counts(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"rootless").hexdigest()
    folder = tmp_path / "contexts/meta" / digest
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(
        '{"Name":"rootless","Endpoints":{"docker":{"Host":"unix:///r/d.sock"}}}'
    )
    named = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_CONTEXT": "rootless"}
    assert address(named) == "/r/d.sock"
    (tmp_path / "config.json").write_text('{"currentContext": "rootless"}')
    assert address({"DOCKER_CONFIG": str(tmp_path)}) == "/r/d.sock"
    assert address({**named, "DOCKER_HOST": "unix:///other"}) == "/other"
    (folder / "meta.json").write_text("[]")
    assert address(named) != "/r/d.sock"


async def test_an_engine_is_asked_for_its_version_and_for_cards(tmp_path: Path) -> None:
    answers = {
        b"/version": b'{"Version": "27.1.1", "ApiVersion": "1.46"}',
        b"/info": b'{"Runtimes": {"runc": {}, "nvidia": {}}}',
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        body = answers[target]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    path = str(tmp_path / "d.sock")
    listener = await asyncio.start_unix_server(serve, path)
    environ = {"DOCKER_HOST": f"unix://{path}"}
    try:
        assert await engine_version(environ) == "27.1.1"
        assert await engine_gives_gpus(environ) is True
        answers[b"/info"] = b'{"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"ID": "nvidia.com/gpu=0"}]}'
        assert await engine_gives_gpus(environ) is True
        answers[b"/info"] = b'{"Runtimes": {"runc": {}}}'
        assert await engine_gives_gpus(environ) is False
        assert (await HostMachine(str(tmp_path), environ).observe()).docker == "27.1.1"
        answers[b"/version"] = b"[]"
        assert await engine_version(environ) is None
    finally:
        listener.close()
    assert await engine_version({"DOCKER_HOST": f"unix://{tmp_path}/gone.sock"}) is None
    assert await engine_gives_gpus({"DOCKER_HOST": f"unix://{tmp_path}/gone.sock"}) is None


# NVIDIA ----------------------------------------------------------------------------------------------------

LIBRARY = r"""
#include <stdio.h>
#include <string.h>
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
static int places[] = {2, 0, 1}, opened;      /* the order in which the driver counts is not that of the bus */
int nvmlInitWithFlags(unsigned f) { opened = !FAILS; return FAILS; }
int nvmlShutdown(void) { opened = 0; return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 4; return opened ? 0 : 1; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) {
    if (i == 3) return 4;                      /* a card that this user may not touch */
    *d = &places[i];
    return 0;
}
int nvmlDeviceGetPciInfo_v3(void *d, pci_t *p) { memset(p, 0, sizeof *p); p->bus = 16 * *(int *)d; return 0; }
int nvmlDeviceGetUUID(void *d, char *t, unsigned n) { snprintf(t, n, "GPU-at-%d", *(int *)d); return 0; }
int nvmlDeviceGetName(void *d, char *t, unsigned n) { snprintf(t, n, "NVIDIA H100"); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, memory_t *m) {
    m->total = 85520809984ULL; m->free = 1000ULL * (1 + *(int *)d); m->used = m->total - m->free;
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *d, int *a, int *b) { *a = 9; *b = 0; return 0; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { snprintf(t, n, "570.133.20"); return 0; }
int nvmlSystemGetCudaDriverVersion(int *v) { *v = 12080; return 0; }
"""


def library(folder: Path, fails: int = 0) -> str:
    pynvml._nvmlGetFunctionPointer_cache.clear()  # it remembers the functions of the library before
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a stand-in for the driver's library")
    source, made = folder / "nvml.c", folder / f"libnvml{fails}.so"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", f"-DFAILS={fails}", "-o", made, source], check=True)
    return str(made)


async def test_cards_come_in_pci_order_with_what_strangers_left_free(tmp_path: Path) -> None:
    nvml = Nvml((library(tmp_path),))
    environ = {"DOCKER_HOST": "unix:///nowhere"}
    host = await HostMachine(str(tmp_path), environ, nvml).observe()
    assert [(gpu.index, gpu.uuid, gpu.memory_free) for gpu in host.gpus] == [
        (0, "GPU-at-0", 1000),
        (1, "GPU-at-1", 2000),
        (2, "GPU-at-2", 3000),
    ]
    assert host.gpus[0].memory == 85520809984
    assert host.gpus[0].capability == (9, 0)
    assert (host.driver, host.cuda) == ("570.133.20", "12.8")
    assert host.flavours() == ("cuda", "cuda12", "cpu")
    nvml.close()
    with pytest.raises(NvmlError):
        nvml.cards()


def test_a_library_whose_driver_is_not_loaded_is_as_good_as_none(tmp_path: Path) -> None:
    assert not Nvml((library(tmp_path, fails=9),)).open()
    assert not Nvml((str(tmp_path / "none.so"),)).open()


@pytest.mark.gpu
@pytest.mark.skipif(not os.path.exists("/proc/driver/nvidia/version"), reason="needs an NVIDIA driver")
def test_the_cards_of_this_machine_are_found() -> None:
    nvml = Nvml()
    assert nvml.open()
    assert nvml.cards()
    assert nvml.versions()[0] == hardware_linux.nvidia_driver()
