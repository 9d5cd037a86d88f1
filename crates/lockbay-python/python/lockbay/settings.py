"""The settings of an instance, for type checkers; `docs/operations.md` says what each is.

A time is a number of seconds, or text such as `"2500ms"`, `"30s"` or `"7d"`.
"""

from typing import TypeAlias, TypedDict

Time: TypeAlias = float | str


class Settings(TypedDict, total=False):
    """By name. `None` leaves a setting as it is."""

    listen: str | None
    service: str | None
    instance_name: str | None
    environment: str | None
    leader_ttl: Time | None
    claim_ttl: Time | None
    result_ttl: Time | None
    dedup_horizon: Time | None
    max_retries: int | None
    cleanup_interval: Time | None
    cleanup_foreign_keys: bool | None
    saga_timeout: Time | None
    saga_step_timeout: Time | None
    saga_concurrency: int | None
    saga_queue: int | None
    session_ttl: Time | None
    monitoring_interval: Time | None
    monitoring: bool | None
    alert_interval: Time | None
    audit: bool | None
    audit_masked_fields: str | None
    audit_mask_secret: str | None
    audit_key: str | None
    audit_seal_interval: Time | None
    audit_retention: Time | None
    search: bool | None
    health_interval: Time | None
    payout_provider: str | None
    payout_secret: str | None
    alert_webhook_url: str | None
    alert_webhook_secret: str | None
    alert_command: str | None
    alert_smtp_url: str | None
    alert_email_from: str | None
    alert_email_to: str | None
    alert_min_severity: str | None
    alert_group_wait: Time | None
    four_eyes_above: str | None
    approval_ttl: Time | None
    shutdown_grace: Time | None
    max_in_flight: int | None
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    tls_client_auth: str | None
    tls_client_roles: str | None
    head_timeout: Time | None
    body_timeout: Time | None
    write_timeout: Time | None
    max_peer_connections: int | None
    auth: str | None
    rate_limit: int | None
    allowed_hosts: str | None
