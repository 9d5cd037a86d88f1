"""How Django knows the app."""

from django.apps import AppConfig


class LockBayConfig(AppConfig):
    """Takes the settings of LockBay from those of Django. It opens nothing."""

    name = "lockbay.integrations.django"
    label = "lockbay"
    verbose_name = "LockBay"

    def ready(self) -> None:
        """Has the instance of this process configured; it is opened by whoever serves."""
        from django.conf import settings

        from lockbay._process import bay

        bay.configure_from(settings)
