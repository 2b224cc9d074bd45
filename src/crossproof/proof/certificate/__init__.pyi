from .options import ProverOptions as ProverOptions
from .proving import ProofResult as ProofResult
from .proving import prove as prove
from .result import VerificationResult as VerificationResult
from .verifier.verdict import verify as verify
