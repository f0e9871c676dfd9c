"""What can be wrong with a policy.

PolicyError
├── BackendUnavailableError  the backend is not installed, or the bundle has no artifact for it
├── SelfTestError            the artifact does not load, or does not reproduce the golden states
├── NotAdmittedError         the bundle is as its manifest says, and may still not be served
└── QValuesNotFiniteError    the policy has no finite answer for a state
"""


class PolicyError(Exception):
    """Raised when a policy cannot be trusted or has no answer."""


class BackendUnavailableError(PolicyError):
    """Raised when the chosen backend cannot run here, or the bundle has nothing for it."""


class SelfTestError(PolicyError):
    """Raised when the loaded artifact is not the policy that the manifest describes."""


class NotAdmittedError(PolicyError):
    """Raised when a bundle is whole and does as its manifest says, and may still not be served."""


class QValuesNotFiniteError(PolicyError):
    """Raised when a Q-value is NaN or infinite: such an answer never becomes an action."""

    def __init__(self, row: int, out_of_range: list[str]) -> None:
        super().__init__(f"the policy has no finite Q-values for state {row}")
        self.row = row
        self.out_of_range = out_of_range
