//! The cryptography behind `jsonwebtoken`: ring's, which TLS uses anyway. Its own choices of it are thirty crates more, or a
//! C library. It checks signatures of public keys and can do nothing else: nothing is signed here, and no shared secret is
//! a key.

use std::sync::Once;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Verifier},
};
use ring::signature::{
    self as ring_signature, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(Check::new(*algorithm, key)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

/// To be called before anything is decoded.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    // Somebody else of this process has chosen one: then that one checks.
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

/// The algorithms that are taken: of public keys alone.
pub(super) fn algorithms(family: AlgorithmFamily) -> &'static [Algorithm] {
    use Algorithm as A;
    match family {
        AlgorithmFamily::Rsa => &[A::RS256, A::RS384, A::RS512, A::PS256, A::PS384, A::PS512],
        AlgorithmFamily::Ec => &[A::ES256, A::ES384],
        AlgorithmFamily::Ed => &[A::EdDSA],
        AlgorithmFamily::Hmac => &[],
    }
}

enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8>, by: &'static RsaParameters },
    Point(UnparsedPublicKey<Vec<u8>>),
}

/// One key, one algorithm.
struct Check {
    algorithm: Algorithm,
    key: Key,
}

impl Check {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self, Error> {
        let rsa = |by: &'static RsaParameters| match key.kind() {
            // Of 2048 bits at least: ring refuses smaller ones.
            DecodingKeyKind::RsaModulusExponent { n, e } => Ok(Key::Rsa { n: n.clone(), e: e.clone(), by }),
            DecodingKeyKind::SecretOrDer(_) => Err(Error::from(ErrorKind::InvalidKeyFormat)),
        };
        let point = |by: &'static dyn VerificationAlgorithm| {
            key.try_get_as_bytes().map(|bytes| Key::Point(UnparsedPublicKey::new(by, bytes.to_vec())))
        };
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let key = match algorithm {
            Algorithm::RS256 => rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => rsa(&ring_signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => rsa(&ring_signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => rsa(&ring_signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => point(&ring_signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => point(&ring_signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => point(&ring_signature::ED25519),
            _ => Err(ErrorKind::InvalidAlgorithm.into()),
        };
        Ok(Self { algorithm, key: key? })
    }
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match &self.key {
            Key::Rsa { n, e, by } => RsaPublicKeyComponents { n, e }.verify(by, message, signature),
            Key::Point(key) => key.verify(message, signature),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
