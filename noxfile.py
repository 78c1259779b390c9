"""Tasks for people who work on this project: ``nox -l`` lists them, ``nox -s fast`` runs one."""

import nox

nox.options.sessions = ["fast"]
nox.options.reuse_existing_virtualenvs = True


def installed(session: nox.Session) -> None:
    """Install the package with what its tests need, in the versions that they ran with."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")


@nox.session
def fast(session: nox.Session) -> None:
    """Style, types, layers, and the tests that are not slow."""
    installed(session)
    session.run("bash", "tests/run.sh", "fast", *session.posargs, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Style, types, layers, and all tests."""
    installed(session)
    session.run("bash", "tests/run.sh", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The site of the documents, into site/."""
    session.install("-c", "constraints.txt", ".[docs]")
    session.run("python", "docs/make.py", *session.posargs)


@nox.session
def pages(session: nox.Session) -> None:
    """The pages and parts of pages that are made of the code: README's tree, the table of difficult files."""
    installed(session)
    session.run("python", "tests/helpers/tree.py")
    session.run("python", "tests/helpers/cases.py")
