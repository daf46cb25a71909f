//! Signatures of deliveries by Standard Webhooks 1.0.0 (<https://github.com/standard-webhooks/standard-webhooks>,
//! spec/standard-webhooks.md). `config` parses the keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::SigningKey;

/// Returns the value of `webhook-signature`, one signature per key; `None` without keys.
pub(super) fn header(keys: &[SigningKey], id: &str, timestamp: u64, body: &[u8]) -> Option<String> {
    let signatures: Vec<String> = keys.iter().map(|key| sign(key, id, timestamp, body)).collect();
    (!signatures.is_empty()).then(|| signatures.join(" "))
}

fn sign(key: &SigningKey, id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn signed(secrets: &str) -> Option<String> {
        let keys = SigningKey::parse_all(secrets).unwrap();
        let body = br#"{"test": 2432232314}"#;
        header(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
    }

    /// Uses the test vector of the specification's libraries.
    #[test]
    fn the_published_example_has_its_published_signature() {
        assert_eq!(signed(SECRET).as_deref(), Some(SIGNED));
    }

    #[test]
    fn each_key_adds_a_signature_and_no_key_means_none() {
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let both = signed(&format!("{other} {SECRET}")).unwrap();
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(second, SIGNED);
        assert_eq!(Some(first), signed(&other).as_deref());
        assert_eq!(header(&[], "id", 0, b""), None);
    }
}
