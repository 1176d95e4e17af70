"""Sinks take a file once and for all."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from ownkey_server.storage.audit.sink import DirectorySink, Sink, SinkConflict, SinkError
from ownkey_server.storage.audit.sink_s3 import S3Sink

NAME = "writers/00000007/000000000001-000000010000.jsonl"


def in_future() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for S3, with a bucket that locks objects and one that does not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        client.create_bucket(Bucket="unlocked")
        yield client


@pytest.fixture(params=["directory", "s3"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Sink:
    if request.param == "directory":
        return DirectorySink(tmp_path)
    request.getfixturevalue("s3")
    return S3Sink("locked", "ownkey/", region="us-east-1", retain_days=30, clock=in_future)


def test_the_same_again_is_fine_and_something_else_is_not(sink: Sink) -> None:
    sink.put(NAME, b"content")
    sink.put(NAME, b"content")
    sink.put("checkpoints/000000000001.json", b"")
    with pytest.raises(SinkConflict, match="holds something else"):
        sink.put(NAME, b"other")
    sink.put(NAME, b"content")


def test_a_file_is_whole_and_nobody_may_write_to_it(tmp_path: Path) -> None:
    DirectorySink(tmp_path).put(NAME, b"content")
    path = tmp_path / NAME
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_comes_between_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keepers at once."""
    sink = DirectorySink(tmp_path)
    sink.put(NAME, b"content")
    monkeypatch.setattr(Path, "exists", lambda self, **_: False)
    sink.put(NAME, b"content")
    with pytest.raises(SinkConflict):
        sink.put(NAME, b"other")
    assert (tmp_path / NAME).read_bytes() == b"content"
    assert len(list((tmp_path / NAME).parent.iterdir())) == 1


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is no directory"):
        DirectorySink(tmp_path / "not mounted")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    sink = DirectorySink(tmp_path)
    (tmp_path / "writers").write_text("in the way", encoding="utf-8")
    with pytest.raises(SinkError, match="cannot be written"):
        sink.put(NAME, b"content")


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_an_object_is_locked(s3: Any, mode: Any) -> None:
    S3Sink("locked", "ownkey/", region="us-east-1", retain_days=30, mode=mode, clock=in_future).put(NAME, b"content")
    found = s3.get_object(Bucket="locked", Key=f"ownkey/{NAME}")
    assert found["Body"].read() == b"content"
    assert found["ObjectLockMode"] == mode
    assert timedelta(days=29) < found["ObjectLockRetainUntilDate"] - datetime.now(UTC) < timedelta(days=31)


@pytest.mark.parametrize(
    ("bucket", "complaint"),
    [("unlocked", "bucket unlocked: has no object lock.*object-lock-enabled"), ("missing", "there is no such bucket")],
)
def test_a_bucket_that_does_not_lock_is_refused(s3: Any, bucket: str, complaint: str) -> None:
    with pytest.raises(SinkError, match=complaint):
        S3Sink(bucket, region="us-east-1", retain_days=30)


def test_a_bucket_that_went_away(s3: Any) -> None:
    sink = S3Sink("locked", region="us-east-1", retain_days=30, clock=in_future)
    s3.delete_bucket(Bucket="locked")
    with pytest.raises(SinkError, match=r"s3://locked/.*cannot be written"):
        sink.put(NAME, b"content")


def test_s3_without_credentials_or_with_a_senseless_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SinkError, match="S3 cannot be used"):
        S3Sink("locked", endpoint_url="no url", region="us-east-1", retain_days=30)
