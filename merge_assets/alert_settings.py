"""Whom to tell that a person is needed: the table ``[alerts]`` of merge-assets.toml, or ``MERGE_ASSETS_ALERTS_…``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

LONGEST_SECONDS = 30.0


class Alerts(BaseModel):
    """Where messages go; nowhere by default. Addresses of webhooks let whoever knows them write there: they are secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: SecretStr | None = Field(default=None, description="address that gets each message as a JSON object")
    slack: SecretStr | None = Field(
        default=None, description="incoming webhook of Slack, or of what understands the same"
    )
    email_to: tuple[str, ...] = Field(default=(), max_length=50, description="addresses that get each message")
    email_from: str = Field(default="merge-assets@localhost", description="sender of e-mails")
    smtp_host: str = Field(default="localhost", description="server that e-mails are handed to")
    smtp_port: int = Field(default=25, gt=0, lt=65536, description="its port")
    smtp_security: Literal["none", "starttls", "tls"] = Field(default="none", description="how it is spoken to")
    smtp_user: str | None = Field(default=None, description="user there, if it asks for one")
    smtp_password: SecretStr | None = Field(default=None, description="password of that user")
    seconds: float = Field(
        default=10.0, gt=0, le=LONGEST_SECONDS, description="longest that a server may take to answer"
    )

    @field_validator("webhook", "slack")
    @classmethod
    def _address(cls, address: SecretStr | None) -> SecretStr | None:
        if address is not None and not address.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("must begin with https:// or http://")
        return address

    @field_validator("email_to", "email_from")
    @classmethod
    def _mailbox(cls, given: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for address in (given,) if isinstance(given, str) else given:
            name, _, host = address.rpartition("@")
            if not name or not host or not address.isprintable() or any(part in address for part in ' ,;<>"'):
                raise ValueError(f"{address!r} is no e-mail address; write it as name@example.org")
        return given

    @model_validator(mode="after")
    def _whole(self) -> Alerts:
        if self.smtp_password is not None and self.smtp_user is None:
            raise ValueError("smtp_password needs smtp_user")
        if self.smtp_password is not None and self.smtp_security == "none":
            raise ValueError('smtp_password needs smtp_security = "starttls" or "tls": it would be sent in the clear')
        return self

    @property
    def any(self) -> bool:
        """Whether anybody is told."""
        return bool(self.webhook or self.slack or self.email_to)
