"""The repository around the code: its packages, its papers, and what it must not name."""

import re
import tomllib

from tests.tidy import tree

# Whoever mirrors a registry says so in pip's own configuration. Added up here, or this file would be found as well.
REGISTRY_HOSTS = [
    name + domain
    for name, domains in {
        b"pypi": [b".org"],
        b"pythonhosted": [b".org"],
        b"npmjs": [b".org", b".com"],
        b"deb.debian": [b".org"],
    }.items()
    for domain in domains
]


def test_there_are_five_top_level_packages():
    top_level = {path.parts[0] for path in tree.modules()}
    assert top_level - {"tests", "docs"} == set(tree.PACKAGES)


def test_every_folder_of_a_package_is_a_package():
    """Without its __init__.py a folder works from a checkout, and is missing from what gets installed."""
    folders = {path.parent for path in tree.modules(*tree.PACKAGES)}
    assert [folder for folder in sorted(folders) if not (tree.ROOT / folder / "__init__.py").is_file()] == []


def test_every_package_is_typed_for_those_who_import_it():
    assert [name for name in tree.PACKAGES if not (tree.ROOT / name / "py.typed").is_file()] == []


def test_licence_and_changelog_exist():
    missing = [name for name in ("LICENSE", "CHANGELOG.md") if not (tree.ROOT / name).is_file()]
    assert missing == []


def test_no_file_names_a_registry():
    named = [path for path in tree.files() if any(host in (tree.ROOT / path).read_bytes() for host in REGISTRY_HOSTS)]
    assert named == []


def test_the_lock_pins_what_the_project_asks_for():
    project = tomllib.loads(tree.read(tree.ROOT / "pyproject.toml"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned = set(re.findall(r"^([a-z0-9-]+)==", tree.read(tree.ROOT / "requirements.lock"), flags=re.MULTILINE))
    assert {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in asked} - pinned == set()
