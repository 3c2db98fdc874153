"""Nothing that is written for others holds a secret of the environment or the user's home."""

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from neoxlib import redact
from neoxlib.demo import MODEL_DIR
from neoxlib.process import CACHE, cache_dir
from neoxlib.redact import GONE, scrub, shown
from tests.support.small_notebooks import start, write

KEY_BLOCK = """-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7
-----END PRIVATE KEY-----"""
SECRETS = {  # twenty, under names that are recorded and under others
    "ASCEND_TOKEN": "asc3ndT0kenValue",
    "ASCEND_DOWNLOAD_URL": "https://planted:us3rinfoPass@example.org/cann",
    "ATB_LICENSE_KEY": "atb-lic-4711-0815",
    "HCCL_PASSWORD": "hccl pass phrase with blanks 9",
    "HCCL_AUTH": "Bearer hccl0123456789abcdef",
    "LCCL_SECRET": "quotes\"and<tags>&'more'7",
    "TORCH_API_KEY": "torch_0a1b2c3d4e5f",
    "TORCH_HOME_URL": "s3://planted2:s3cretOfTheStore@bucket/x",
    "TORCH_DEPLOY": "ghp_0123456789abcdefghijABCDEFGHIJ0123",
    "NPU_CREDENTIAL": "npu\\back\\slash\\99",
    "NPU_JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl01",
    "NPU_PEM": KEY_BLOCK,
    "OMP_PASSPHRASE": "correct horse battery staple",
    "OMP_RANDOM": "q7Rk2PzX9vLm4TtY8sWc1NbH6dJf3Ga0",
    "MKL_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLE",
    "INT8_OTP": "824-991-mkl7",
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwx01",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "HTTPS_PROXY": "http://proxyuser:pr0xyPassw0rd@127.0.0.1:9",
    "DB_密码_PASSWORD": "口令-δ-pa55wörter",
}
WORDS = ["us3rinfoPass", "s3cretOfTheStore", "pr0xyPassw0rd", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKc"]


def test_a_recorded_variable_is_told_without_its_secret():
    told = shown({**SECRETS, "OMP_NUM_THREADS": "4", "HCCL_BUFFSIZE": "200"})
    assert {told.pop(name) for name in SECRETS} == {GONE}
    assert told == {"OMP_NUM_THREADS": "4", "HCCL_BUFFSIZE": "200"}


def test_other_texts_stay_as_they_are(monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    known = {"API_KEY": "enabled", "A_TOKEN": "2048", "PASSWORD": "s3cret-1", "KEY": "/data/keys7"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    text = "enabled 2048 s3cret-12 xs3cret-1 /home/alice2 /mnt/home/alice /data/keys7"
    assert scrub(text) == text
    assert scrub("a s3cret-1, /home/alice/x:/home/alice") == f"a {GONE}, ~/x:~"


def test_a_stream_is_clean_while_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("A_PASSWORD", "s3cret-1")
    with (tmp_path / "log").open("wb") as file:
        stream = redact.Scrubbed.on(file.fileno())
        print("before s3cret-1 after", file=stream)
        assert (tmp_path / "log").read_text() == f"before {GONE} after\n"
        stream.close()
        os.fstat(file.fileno())  # still open


def test_a_stream_to_a_full_disk_drops_what_is_written():
    with open("/dev/full", "wb") as file:
        stream = redact.Scrubbed.on(file.fileno())
        print("x" * 100_000, file=stream)
        stream.flush()
        stream.close()


TELLS = """
import os, neoxlib
from IPython.display import HTML, display
import pandas as pd
from tests.support.rank_faults import say_environment
told = [*os.environ.values(), os.path.expanduser("~/model/config.json")]
session = run.session(neoxlib.Session)
session.apply(say_environment)
"""
TABLES = """
run.save("values", pd.DataFrame({"told": told}))
print(*told); display(HTML("<b>" + "<br>".join(told) + "</b>"))
run.metric("of_what", told[0] + os.environ["ASCEND_TOKEN"]); run.check("fits", True, " ".join(told))
run.verdict("So it is: " + " ".join(told))
session.close()
"""
FAILS = 'raise RuntimeError(" ".join(told))'


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, bytes]:
    """Every file below the outputs of a run that says all that it knows, by its path."""
    place = tmp_path_factory.mktemp("planted")
    home = place / "home" / "planted-person"
    home.mkdir(parents=True)
    (home / "model").symlink_to(MODEL_DIR)
    head = 'model_dir: str = ""  # m\nworld_size: int = 1  # w\ndevice: str = "cpu"  # d'
    (place / "outputs").mkdir()
    path = write(place, "tells", head, start("tells"), TELLS, TABLES, FAILS)
    env = os.environ | SECRETS | {"HOME": str(home), CACHE: str(cache_dir())}
    env |= {"NEOXLIB_OUTPUTS": str(place / "outputs"), "USER": "planted-person"}
    env.pop("PYTEST_CURRENT_TEST", None)
    neoxlib = [sys.executable, "-m", "neoxlib"]
    asked = ["report", path, "-p", "model_dir", str(home / "model")]
    asked += ["--junit", str(place / "outputs" / "junit.xml")]
    done = subprocess.run([*neoxlib, *asked], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "RuntimeError" in done.stderr, done.stderr
    (run,) = (place / "outputs" / "tells").iterdir()
    subprocess.run([*neoxlib, "bundle", run], env=env, check=True, capture_output=True)
    files = [one for one in (place / "outputs").rglob("*") if one.is_file()]
    found = {str(one.relative_to(place)): one.read_bytes() for one in files}
    (bundle,) = (name for name in found if name.endswith(".zip"))
    with zipfile.ZipFile(io.BytesIO(found[bundle])) as parts:
        return found | {f"{bundle}/{part}": parts.read(part) for part in parts.namelist()}


def test_the_run_wrote_all_that_is_looked_at(written):
    names = {Path(name).name for name in written}
    assert names >= {"results.json", "report.html", "notebook.ipynb", "index.html", "values.csv"}
    assert names >= {"rank0.log", "bundle.zip", "environment.json", "junit.xml"}
    log = next(text for name, text in written.items() if name.endswith("logs/rank0.log"))
    assert log.count(GONE.encode()) > 3 * len(SECRETS) / 2, "the rank said nothing"


@pytest.mark.parametrize("name", [*SECRETS, *WORDS])
def test_no_file_holds_a_secret_in_any_writing(written, name):
    value = SECRETS.get(name, name)
    forms = {form.encode() for form in redact._escaped(value)}
    lines = {line.encode() for line in value.splitlines() if len(line) > 30 and "---" not in line}
    assert [at for at, text in written.items() if any(f in text for f in forms | lines)] == []


def test_no_file_holds_the_home_folder(written):
    assert [at for at, text in written.items() if b"/planted-person" in text] == []


def test_every_page_has_a_content_policy_that_allows_its_own_script_only(written):
    pages = {name: text.decode() for name, text in written.items() if name.endswith(".html")}
    assert {Path(name).name for name in pages} >= {"report.html", "index.html"}
    for name, page in pages.items():
        policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
        assert policy and policy[1].startswith("default-src 'none';"), name
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)
        own = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts]
        assert page.index("<script") > policy.start() and len(own) == 1, name
        assert f"script-src 'sha256-{own[0].decode()}'" in policy[1], name


def test_a_run_can_be_started_again_by_the_paths_that_it_recorded(tmp_path, monkeypatch):
    from neoxlib.workbook import parameters
    from neoxlib.workbook.parameter_table import PARAMETERS

    monkeypatch.setenv("HOME", str(tmp_path))
    name = "model_dir"
    assert parameters.placed(name, PARAMETERS[name], "~/x") == str(tmp_path / "x")
    assert parameters.placed("prompts", PARAMETERS["prompts"], "~/x") == "~/x"
