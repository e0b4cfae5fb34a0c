"""Makes everything that a release publishes, in dist/; `make release` runs it.

These are wheel and sdist of the service and of the Python client, the packaged chart, bills of
materials, the image where docker or buildah can build it, and the checksums of all of them. Files that
are not in the repository are left out.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from revoker import __version__

ROOT: Final = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from deploy import helm_program  # noqa: E402  # found only now

BASE_IMAGE: Final = os.environ.get("IMAGE_BASE", "")
"""Another base of the image, such as one with a digest."""


def main() -> None:
    """Make the files; a step that fails ends it, except that of the image."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").absolute()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "revoker"
        copy_repository(tree)
        build_distributions(tree, target)
        build_distributions(tree / "clients/python", target)
        helm = helm_program.unpack("helm/helm", Path(folder))
        run(helm, "package", tree / "helm/revoker", "--destination", target)
        write_bills(tree, target)
        why_not = build_image(tree, target / f"revoker-{__version__}-image.tar")
    run(sys.executable, "-m", "twine", "check", "--strict", *target.glob("*.whl"), *sdists(target))
    write_checksums(target)
    for path in sorted(target.iterdir()):
        print(f"{path.stat().st_size:>10,}  {path.name}")
    if why_not:
        print(f"image: NOT BUILT, since {why_not}")


def run(*command: object, **options: object) -> None:
    """Run a command without its output, which is printed where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(  # noqa: S603
        words, capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")


def copy_repository(target: Path) -> None:
    """Copy the files that git knows, as they are now."""
    git = shutil.which("git")
    if git is None:
        sys.exit("git is missing: it lists the files of the release")
    listed = subprocess.run((git, "ls-files", "-z"), cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def commit_time() -> str:
    """When the last commit was made (s): files are dated so, to be the same whenever they are built."""
    command = ("git", "log", "-1", "--format=%ct")
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def build_distributions(project: Path, target: Path) -> None:
    """Build sdist, and the wheel from it, with the locked setuptools."""
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, project),
        env={**os.environ, "SOURCE_DATE_EPOCH": commit_time()},
    )


def write_bills(tree: Path, target: Path) -> None:
    """Write the bill of materials of the service as `make sbom` does, and that of the client."""
    run("make", "--silent", "sbom", f"SBOM={target / f'revoker-{__version__}.cdx.json'}", cwd=ROOT)
    [version] = [path.name.split("-")[1] for path in target.glob("revoker_client-*.whl")]
    run(
        *(sys.executable, "-m", "cyclonedx_py", "requirements", ROOT / "requirements/client-runtime.txt"),
        *("--pyproject", tree / "clients/python/pyproject.toml", "--mc-type", "library"),
        *("--output-reproducible", "--output-format", "JSON"),
        *("--output-file", target / f"revoker_client-{version}.cdx.json"),
    )


def build_image(tree: Path, archive: Path) -> str:
    """Build the image and save it; returns why it could not be built, or nothing."""
    tag = f"revoker:{__version__}"
    arguments = ["--file", str(tree / "deploy/Dockerfile"), "--tag", tag, str(tree)]
    if BASE_IMAGE:
        arguments = ["--build-arg", f"BASE={BASE_IMAGE}", *arguments]
    reasons = []
    for name, save in (
        ("docker", ["save", "--output", str(archive), tag]),
        ("buildah", ["push", tag, f"docker-archive:{archive}:{tag}"]),
    ):
        program = shutil.which(name)
        if program is None:
            reasons.append(f"there is no {name}")
            continue
        for command in (["build", *arguments], save):
            done = subprocess.run([program, *command], capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no reason is given"])[-1]
                reasons.append(f"{name} {command[0]} failed: {last}")
                break
        else:
            return ""
    return "; ".join(reasons)


def sdists(target: Path) -> list[Path]:
    """The source distributions."""
    return sorted(target.glob("*.tar.gz"))


def write_checksums(target: Path) -> None:
    """Write `SHA256SUMS`, which `sha256sum --check` reads."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(target.iterdir())
    ]
    (target / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
