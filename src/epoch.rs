//! Values of a store's epoch: its identity, used in cursors and idempotency keys, and the tokens of leases.
//! `store/epochs.rs` knows which epochs a store has.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::order::OrderId;

/// Low bits of a fence, which count the claims of an order within an epoch; the bits above are the epoch's number.
pub const FENCE_BITS: u32 = 27;

/// Permanent name of an epoch: 64 random bits, drawn when it began. Public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochIdentity(pub u64);

impl fmt::Display for EpochIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// Identifies one effect of an order in other services: all attempts share it, a redrive gets a new one. It includes
/// the epoch in which the order was accepted, so that no other store or epoch uses the key for another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    pub accepted_in: EpochIdentity,
    pub order_id: OrderId,
    pub generation: u32,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttemptKey {
            accepted_in,
            order_id,
            generation,
        } = self;
        write!(formatter, "{accepted_in}-{order_id}-{generation}")
    }
}

const SECRET_BYTES: usize = 16;
const FENCE_BYTES: usize = 8;
/// 128 bits of the code, so that a token cannot be guessed.
const CODE_BYTES: usize = 16;
const TOKEN_BYTES: usize = FENCE_BYTES + CODE_BYTES;

/// Creates and checks the tokens of an epoch's leases: 128 random bits that never leave the store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenSecret([u8; SECRET_BYTES]);

impl TokenSecret {
    pub fn of(bytes: [u8; SECRET_BYTES]) -> TokenSecret {
        TokenSecret(bytes)
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the token of the lease with this fence.
    pub fn token(&self, order_id: OrderId, fence: u64) -> Token {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(&order_id.0.to_be_bytes());
        mac.update(&fence.to_be_bytes());
        let code = mac.finalize().into_bytes();
        let mut bytes = [0; TOKEN_BYTES];
        bytes[..FENCE_BYTES].copy_from_slice(&fence.to_be_bytes());
        bytes[FENCE_BYTES..].copy_from_slice(&code[..CODE_BYTES]);
        Token(bytes)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenSecret(…)")
    }
}

/// Proves a lease: the fence of its claim, and a code that only the store can compute (RFC 2104 over SHA-256). Opaque
/// to workers.
#[derive(Clone, Copy)]
pub struct Token([u8; TOKEN_BYTES]);

impl Token {
    /// Parses the text of a token; `None` if it is malformed. The store checks if it was ever issued.
    pub fn parse(text: &str) -> Option<Token> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Token)
    }

    /// Returns the fence of the claim, as given in the token.
    pub fn fence(&self) -> u64 {
        let (fence, _) = self
            .0
            .split_first_chunk()
            .expect("a token is longer than a fence");
        u64::from_be_bytes(*fence)
    }
}

/// Takes the same time wherever two tokens differ.
impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Token {}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A reader of the log could use a token.
impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token(fence {}, …)", self.fence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FENCE: u64 = (3 << FENCE_BITS) + 1;

    fn token(secret: u8, order_id: i64, fence: u64) -> Token {
        TokenSecret::of([secret; SECRET_BYTES]).token(OrderId(order_id), fence)
    }

    #[test]
    fn a_token_survives_a_round_trip() {
        let token = token(1, 45, FENCE);
        assert_eq!(Token::parse(&token.to_string()), Some(token));
        assert_eq!(token.fence(), FENCE);
        assert_eq!(token.to_string().len(), 32);
    }

    #[test]
    fn the_code_depends_on_order_fence_and_secret() {
        let code = |token: Token| token.0[FENCE_BYTES..].to_vec();
        let one = code(token(1, 45, FENCE));
        for other in [token(2, 45, FENCE), token(1, 46, FENCE), token(1, 45, FENCE + 1)] {
            assert_ne!(code(other), one);
        }
    }

    #[test]
    fn malformed_text_is_not_a_token() {
        let good = token(1, 45, FENCE).to_string();
        for bad in ["", "7", &good[1..], &format!("{good}AAAA"), &format!("{good}=")] {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn logs_show_neither_secrets_nor_codes() {
        assert_eq!(
            format!("{:?}", TokenSecret::of([7; SECRET_BYTES])),
            "TokenSecret(…)"
        );
        assert_eq!(format!("{:?}", token(1, 45, 9)), "Token(fence 9, …)");
    }
}
