"""The containers' steps, done in a bare root without Docker: built, and used as the image's user."""

from __future__ import annotations

from pathlib import Path

import bare_root
import pytest

CONTAINERS = Path(__file__).parents[2] / "containers"
NAMES = ["cpu", "cuda"]
needs_root = pytest.mark.skipif(not bare_root.possible(), reason="needs Linux, root and namespaces")


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_is_one_that_the_steps_know(name, tmp_path):
    stage, lines = bare_root.built(CONTAINERS / f"{name}.Dockerfile", tmp_path, "true")
    assert (stage.user, stage.folder, stage.root.name) == ("1000:1000", "/work", "last")
    assert stage.told["ENTRYPOINT"] == "entrypoint.sh"
    assert stage.told["CMD"] == "app"
    assert stage.told["HEALTHCHECK"].startswith("python -c ")
    assert any("pip install" in line and ".[app]" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@needs_root
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_steps_give_what_the_container_is_to_do(name, tmp_path):
    packages = "".join(f"/packages/{n}\\n" for n in range(len(bare_root.shared_packages())))
    # Python 3.12, of the image, puts no setuptools into an environment.
    link = (
        "site=$(echo $venv/lib/python3*/site-packages); rm -rf $site/{setuptools,pkg_resources,*distutils}*; "
        f"printf '{packages}' > $site/zz_packages.pth"
    )
    stage, lines = bare_root.built(CONTAINERS / f"{name}.Dockerfile", tmp_path, link)
    place = "python -c 'import metadeblur; print(metadeblur.__file__)'"
    who = (
        "id -un; python -c 'import os; print(os.path.expanduser(chr(126)))'; touch /opt/metadeblur/mine || echo refused"
    )
    demo = f"{stage.told['ENTRYPOINT']} demo demo --frames 5 --width 96 --height 72"
    page = f"{stage.told['ENTRYPOINT']} {stage.told['CMD']}"
    lines += [
        f"echo PLACE $({stage.call(place)})",
        f"echo USER $({stage.call(who)})",
        stage.call(demo),
        f"{stage.call(page)} && exit 9 || echo CODE $?",
        f"{stage.call(page, METADEBLUR_PASSWORD='secret')} > {tmp_path}/page.log 2>&1 &",
        f"for try in $(seq 60); do {stage.call(stage.told['HEALTHCHECK'])} 2> /dev/null && echo HEALTHY && break; "
        "sleep 1; done",
    ]
    done = bare_root.run(lines, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PLACE /opt/metadeblur/" in done.stdout
    assert "USER metadeblur /home/metadeblur refused" in done.stdout
    assert "CODE 2" in done.stdout
    assert "needs a password" in done.stderr
    assert "HEALTHY" in done.stdout, (tmp_path / "page.log").read_text(encoding="utf-8")
    made = tmp_path / "last" / "work" / "demo"
    assert (made / "report" / "index.html").stat().st_uid == 1000
    assert (made / "shaky_deblurred.mp4").is_file()
