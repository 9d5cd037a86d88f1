"""For the tests of applications: a saga under every fault, time that is stepped, and fixtures.

`check_saga` runs a saga of yours again and again, each time with one fault that it must survive.
`Clock` has an instance on a store in memory whose time moves only when it is told to. `plugin` is
what pytest loads by itself.
"""

from lockbay._lockbay import SagaReport, SagaRun
from lockbay.testing._clock import Clock
from lockbay.testing._kit import Trial, check_saga

__all__ = ["Clock", "SagaReport", "SagaRun", "Trial", "check_saga"]
