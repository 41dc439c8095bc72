"""Sending one message to all that are to be told."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from pydantic import SecretStr
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from merge_assets.alert_settings import Alerts
from merge_assets.errors import printable
from merge_assets.pipeline.alerts.causes import Cause

_ATTEMPTS = 3
_LONGEST_SUBJECT = 200


class NotSentError(Exception):
    """A message did not arrive; says where without the address, which is a secret."""


Way = Callable[[str, Cause], None]
"""Tells somebody of a cause in a project of a name."""


def ways(alerts: Alerts) -> dict[str, Way]:
    """The ways on which people are told, by name."""
    found: dict[str, Way] = {}
    if alerts.webhook is not None:
        found["webhook"] = lambda project, cause: _post(alerts, alerts.webhook, _as_object(project, cause))
    if alerts.slack is not None:
        found["Slack"] = lambda project, cause: _post(alerts, alerts.slack, {"text": _for_slack(project, cause)})
    if alerts.email_to:
        found["e-mail"] = lambda project, cause: _mail(alerts, project, cause)
    return found


def send(way: Way, project: str, cause: Cause) -> str | None:
    """Tell somebody, again after errors that may pass; what went wrong if they were not told."""
    import httpx2

    retrying = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=4.0),
        retry=retry_if_exception_type((httpx2.TransportError, NotSentError, OSError, smtplib.SMTPServerDisconnected)),
        reraise=True,
    )
    try:
        retrying(way, project, cause)
    except Exception as error:  # one way never keeps a message from the others
        # Messages of others may name the address, which is a secret.
        return printable(str(error) if isinstance(error, NotSentError) else type(error).__name__)
    return None


def _post(alerts: Alerts, address: SecretStr | None, content: dict[str, object]) -> None:
    import httpx2

    assert address is not None
    answer = httpx2.post(address.get_secret_value(), json=content, timeout=alerts.seconds, follow_redirects=False)
    if not answer.is_success:
        raise NotSentError(f"the server answers {answer.status_code}")


def _title(project: str, cause: Cause) -> str:
    return printable(" ".join(f"[{project}] {cause.title}".split()))


def _as_object(project: str, cause: Cause) -> dict[str, object]:
    return {
        "project": printable(project),
        "title": _title(project, cause),
        "state": cause.state,
        "reason": printable(cause.reason),
        "assets": [printable(key) for key in cause.keys],
        "run": cause.run,
        "cause": cause.digest,
    }


def _for_slack(project: str, cause: Cause) -> str:
    text = f"*{_title(project, cause)}*\n{_body(cause)}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _body(cause: Cause) -> str:
    return "\n".join(printable(line) for line in cause.text.splitlines())


def _mail(alerts: Alerts, project: str, cause: Cause) -> None:
    message = EmailMessage()
    message["Subject"] = _title(project, cause)[:_LONGEST_SUBJECT]
    message["From"] = alerts.email_from
    message["To"] = ", ".join(alerts.email_to)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=alerts.email_from.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_body(cause))
    with _server(alerts) as server:
        if alerts.smtp_security == "starttls":
            server.starttls(context=ssl.create_default_context())
        if alerts.smtp_user is not None and alerts.smtp_password is not None:
            server.login(alerts.smtp_user, alerts.smtp_password.get_secret_value())
        server.send_message(message)


def _server(alerts: Alerts) -> smtplib.SMTP:
    where = (alerts.smtp_host, alerts.smtp_port)
    if alerts.smtp_security == "tls":
        return smtplib.SMTP_SSL(*where, timeout=alerts.seconds, context=ssl.create_default_context())
    return smtplib.SMTP(*where, timeout=alerts.seconds)
