"""Contract of alerts: what needs a person is told once per cause, by every way, for as long as it lasts, and never a secret.

The servers that are told are real ones on loopback.
"""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
import tenacity

from merge_assets.alert_settings import Alerts
from merge_assets.errors import SettingsError
from merge_assets.pipeline.alerts.causes import Cause, Told, causes
from merge_assets.pipeline.alerts.send import send, ways
from merge_assets.pipeline.status import Status, StatusLine
from merge_assets.settings import load_settings
from tests.message_servers import hook, mail_server
from tests.pipeline_support import MEAN, SECOND, Daemon, FakeApi, Project, fake, project

__all__ = ["fake", "project"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore")

CAUSE = Cause("failed", "its <models> do not fit & more", ("variants/mean", "variants/second"), "run-1")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda _: None)


def told(daemon: Daemon, cursor: str | None = None) -> str | None:
    """One tick of the sensor; its cursor."""
    context = dg.build_sensor_context(instance=daemon.instance, cursor=cursor)
    return daemon.definitions.get_sensor_def("alerts")(context).cursor


def test_one_message_for_each_cause_once_and_again_when_it_comes_back(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    project.recipe("second", SECOND)
    project.recipe("third", MEAN)
    project.recipe("spoilt", "merge_method: linear\nmodels: nonsense\n")
    fake.failing |= {"mean", "third"}
    with hook() as inbox:
        daemon = Daemon.begun(project, alerts={"webhook": inbox.url})
        cursor = told(daemon)
        seen = {message["state"]: message for message in inbox.got}
        assert len(inbox.got) == len(seen) == 2
        assert seen["failed"]["assets"] == ["variants/mean", "variants/third"], "what waits for them is no cause"
        assert seen["failed"]["reason"] == "it fails as asked"
        assert seen["broken"]["assets"] == ["spoilt"]
        cursor = told(daemon, cursor)
        assert len(inbox.got) == 2
        fake.failing.clear()
        daemon.later = 3600
        daemon.settle()
        cursor = told(daemon, cursor)
        fake.failing |= {"mean"}
        project.checkpoint("one", "other weights")
        daemon.observe()
        daemon.settle()
        told(daemon, cursor)
        assert [message["state"] for message in inbox.got[2:]] == ["failed"]


def test_what_may_pass_is_told_only_when_it_does_not(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    fake.crashing.add("mean")
    with hook() as inbox:
        daemon = Daemon.begun(project, alerts={"webhook": inbox.url})
        for _ in range(2):
            told(daemon)
            assert inbox.got == []
            daemon.later = 301
            daemon.tick()
            daemon.later = 0.0
        daemon.later = 301
        daemon.tick()
        daemon.later = 0.0
        told(daemon)
        assert [message["assets"] for message in inbox.got] == [["variants/mean"]]


def test_a_failed_check_is_told(project: Project, fake: FakeApi) -> None:
    project.recipe("mean", MEAN)
    fake.failing_checks.add("mean")
    with hook() as inbox:
        daemon = Daemon.begun(project, alerts={"webhook": inbox.url})
        told(daemon)
    (message,) = inbox.got
    assert message["state"] == "refused" and "finite" in message["reason"]


def test_nobody_to_be_told_is_no_sensor(project: Project) -> None:
    project.recipe("mean", MEAN)
    assert "alerts" not in {sensor.name for sensor in project.definitions().sensors or []}


def test_a_server_that_fails_for_a_moment_is_asked_again() -> None:
    with hook() as inbox:
        inbox.answers = [503, 500]
        assert send(ways(Alerts(webhook=inbox.url))["webhook"], "p", CAUSE) is None
        assert (inbox.tried, len(inbox.got)) == (3, 1)


def test_a_way_that_fails_is_tried_at_the_next_tick_and_the_others_are_not_told_again(
    project: Project, fake: FakeApi
) -> None:
    project.recipe("mean", MEAN)
    fake.failing.add("mean")
    with hook() as inbox, hook() as slack:
        slack.answers = [403] * 3
        daemon = Daemon.begun(project, alerts={"webhook": inbox.url, "slack": slack.url})
        cursor = told(daemon)
        assert (len(inbox.got), len(slack.got)) == (1, 0)
        told(daemon, cursor)
        assert (len(inbox.got), len(slack.got)) == (1, 1)


def test_what_went_wrong_does_not_name_the_address() -> None:
    address = "http://127.0.0.1:9/secret-part"
    said = send(ways(Alerts(webhook=address))["webhook"], "p", CAUSE)
    assert said is not None and "secret-part" not in said


def test_slack_gets_text_in_which_nothing_is_markup() -> None:
    with hook() as inbox:
        assert send(ways(Alerts(slack=inbox.url))["Slack"], "p", CAUSE) is None
    (message,) = inbox.got
    assert "its &lt;models&gt; do not fit &amp; more" in message["text"]
    assert message["text"].startswith("*[p] variants/mean and 1 more: failed*")


def test_an_e_mail() -> None:
    hostile = Cause("failed", "one\x1b[31m\r\nBcc: everybody@example.org", ("variants/mean",))
    with mail_server() as box:
        alerts = Alerts(email_to=("a@example.org", "b@example.org"), smtp_host="127.0.0.1", smtp_port=box.port)
        assert send(ways(alerts)["e-mail"], "p\nq", hostile) is None
    (mail,) = box.mails
    assert mail["To"] == "a@example.org, b@example.org" and mail["Bcc"] is None
    assert mail["Subject"] == "[p q] variants/mean: failed"
    assert "\x1b" not in mail.get_content()


# -- settings


def test_settings_come_from_the_file_and_secrets_from_the_environment(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "merge-assets.toml").write_text(
        '[alerts]\nemail_to = ["team@example.org"]\nsmtp_user = "me"\nsmtp_security = "tls"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGE_ASSETS_ALERTS_SMTP_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("MERGE_ASSETS_ALERTS_SLACK", "https://hooks.example.org/hunter2hunter2")
    settings = load_settings()
    assert settings.alerts.email_to == ("team@example.org",)
    assert settings.alerts.smtp_password is not None
    assert settings.alerts.smtp_password.get_secret_value() == "hunter2hunter2"
    shown = repr(settings) + str(settings.describe())
    assert "hunter2" not in shown and "team@example.org" in shown


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('webhook = "ftp://x"', r"alerts\.webhook: must begin with https"),
        ('email_to = ["nobody"]', r"alerts\.email_to: 'nobody' is no e-mail address"),
        ('email_to = ["a@b\\nBcc: c@d"]', "is no e-mail address"),
        ('smtp_user = "me"\nsmtp_password = "x"', "would be sent in the clear"),
        ("smtp_hots = 3", r"alerts\.smtp_hots: extra inputs are not permitted"),
    ],
)
def test_wrong_settings_say_where(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, table: str, says: str) -> None:
    (tmp_path / "merge-assets.toml").write_text(f"[alerts]\n{table}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=says):
        load_settings()


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGE_ASSETS_ALERTS_WEBHOK", "x")
    with pytest.raises(SettingsError, match="MERGE_ASSETS_ALERTS_WEBHOK: unknown setting"):
        load_settings()


# -- causes


def test_the_same_reason_is_one_cause_whatever_it_names() -> None:
    lines = [
        StatusLine(f"variants/v{n}", "failed", f"variants/v{n} ran out of disk", needs_person=True) for n in range(40)
    ]
    (cause,) = causes(Status(0.0, tuple(lines), 0, 0, (), "running"))
    assert len(cause.keys) == 40 and "and 20 more" in cause.text


def test_a_cursor_that_cannot_be_read_is_none() -> None:
    assert Told.decode("[1]") == Told.decode("{") == Told.decode(None) == Told({})
