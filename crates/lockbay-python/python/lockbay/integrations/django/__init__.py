"""An app for Django: put `lockbay.integrations.django` into `INSTALLED_APPS`.

It brings the command `lockbay_health`. Settings of the instance are those of Django under the names
that they have in the environment, such as `LOCKBAY_STORE` and `REDIS_JOB_CLAIM_TTL`.
"""
